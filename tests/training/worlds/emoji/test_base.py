"""The shipped emoji base: what its record claims, measured again on a sample; ESD and AdvUnlearn train on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import RobustEncoder
from robust_encoders.hub.embedded import embedded_folder, embedded_pipeline
from robust_encoders.training.cli.main import main
from robust_encoders.training.worlds.emoji.captions import prompts
from robust_encoders.training.worlds.emoji.clip_score import load_clip_scorer
from robust_encoders.training.worlds.emoji.icon_judge import load_icon_judge
from robust_encoders.training.worlds.emoji.judge import load_judge
from robust_encoders.training.worlds.emoji.measure import as_asked
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.pretrain.measure import draw

pytestmark = pytest.mark.base

RECORDED: dict[str, dict[str, float]] = {}
DRAWN: dict[str, float] = {}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((embedded_folder("emoji") / "RECORD.json").read_text())
    return stored


def judges() -> dict[str, Any]:
    return {"trained": load_judge(), "icons": load_icon_judge()}


def test_the_record_meets_what_later_numbers_stand_on(record: dict[str, Any]) -> None:
    assert record["base_on_held_out_templates"]["n"] >= 1000
    for place, least in RECORDED.items():
        for label, share in least.items():
            assert record[place][label] >= share, (place, label)


def test_the_base_draws_what_captions_say() -> None:
    asked = prompts(load_things(), 48, seed=4242)
    shares = as_asked(judges(), draw(embedded_pipeline("emoji"), [one.text for one in asked], seed=4242), asked)
    for label, least in DRAWN.items():
        assert shares[label]["trained"] >= least - 0.15


def test_pictures_depend_on_their_own_seed_alone() -> None:
    pipe, texts = embedded_pipeline("emoji"), ["a beer mug", "an icon of a dog on a blue background"]
    together = draw(pipe, texts, seed=3, steps=4)
    torch.testing.assert_close(together[1:], draw(pipe, texts[1:], seed=4, steps=4), atol=1e-3, rtol=0)


def test_the_clip_score_prefers_the_right_caption() -> None:
    asked = prompts(load_things(), 48, seed=11)
    texts, scorer = [one.text for one in asked], load_clip_scorer()
    images = draw(embedded_pipeline("emoji"), texts, seed=11)
    assert float((scorer(images, texts) > scorer(images, texts[1:] + texts[:1])).float().mean()) > 0.85


@pytest.mark.parametrize("method", ["esd", "advunlearn"])
def test_methods_train_on_it_by_name_and_their_encoders_attach(method: str, tmp_path: Path) -> None:
    out = tmp_path / method
    assert main(["train", f"emoji/alcohol-{method}", "--iterations", "1", "--out", str(out)]) == 0
    pipe = embedded_pipeline("emoji")
    before = pipe.text_encoder.get_input_embeddings().weight.clone()
    with RobustEncoder.from_pretrained(out).attached(pipe):
        assert pipe("a teacup", num_inference_steps=2, output_type="pt").images.shape == (1, 3, 64, 64)
    assert torch.equal(before, pipe.text_encoder.get_input_embeddings().weight)


def test_its_files_fit_the_size_they_may_have() -> None:
    sizes = [path.stat().st_size for path in embedded_folder("emoji").rglob("*") if path.is_file()]
    assert sum(sizes) <= 56 * 2**20
