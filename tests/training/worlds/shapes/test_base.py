"""The shipped base: what its record claims, re-measured on a sample."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from robust_encoders.hub.embedded import embedded_folder, embedded_pipeline
from robust_encoders.training.worlds.pretrain.measure import base_accuracy, draw, judge_accuracy
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.clip_score import clip_score
from robust_encoders.training.worlds.shapes.corpus import ShapesCorpus
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.pictures import captions_of, render_pictures

pytestmark = pytest.mark.base

RENDERED = {"shape": 0.98, "colour": 0.99, "style": 0.97}
# The judge may answer none, as it does to outlines that the base breaks and to colours between two. A judge that had to
# name a value gave the same pictures 0.998, 0.988 and 0.955.
DRAWN = {"shape": 0.96, "colour": 0.95, "style": 0.91}
REJECTED = {"shape": 0.9, "colour": 0.96, "background": 0.98, "style": 0.96}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((embedded_folder("shapes") / "RECORD.json").read_text())
    return stored


def test_the_judges_record_meets_what_later_numbers_stand_on(record: dict[str, Any]) -> None:
    for factor, least in RENDERED.items():
        assert record["judge_on_held_out_renders"][factor] >= least


def test_the_judges_record_says_how_often_it_answers_none_rightly(record: dict[str, Any]) -> None:
    for factor, least in REJECTED.items():
        assert record["judge_on_held_out_rejects"][factor] >= least


def test_the_judge_knows_what_it_never_saw_from_what_it_knows() -> None:
    measured = judge_accuracy(ShapesCorpus(), load_judge(), ShapesCorpus().reject_pictures(300, seed=78))
    for factor, least in REJECTED.items():
        assert measured[factor] >= least - 0.05


def test_the_bases_record_meets_what_later_numbers_stand_on(record: dict[str, Any]) -> None:
    assert record["base_on_held_out_templates"]["n"] >= 400
    for factor, least in DRAWN.items():
        assert record["base_on_held_out_templates"][factor] >= least


def test_the_judge_reads_fresh_renders() -> None:
    measured = judge_accuracy(ShapesCorpus(), load_judge(), render_pictures(600, seed=77))
    for factor, least in RENDERED.items():
        assert measured[factor] >= least


def test_the_base_draws_what_prompts_say(record: dict[str, Any]) -> None:
    # 48 pictures: four of them wrong would be 5 standard errors below the record.
    measured = base_accuracy(ShapesCorpus(), embedded_pipeline(), load_judge(), n=48, seed=4242)
    for factor in DRAWN:
        assert measured[factor] >= record["base_on_held_out_templates"][factor] - 0.1


def test_pictures_depend_on_their_own_seed_alone() -> None:
    pipe = embedded_pipeline()
    prompts = ["a red circle", "a blue star over white"]
    together = draw(pipe, prompts, seed=3, steps=4)
    alone = draw(pipe, prompts[1:], seed=4, steps=4)
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=0)


def test_the_clip_score_prefers_the_right_caption() -> None:
    pictures = render_pictures(64, seed=9)
    images = pictures.images.float() / 255
    captions = captions_of(pictures.labels, torch.Generator().manual_seed(0))
    right, wrong = clip_score(images, captions), clip_score(images, captions[1:] + captions[:1])
    assert float((right > wrong).float().mean()) > 0.9


def test_synonyms_draw_the_same_scene_values() -> None:
    prompts = scene_prompts(24, seed=8, fixed={"shape": "circle"}, words="unseen")
    images = draw(embedded_pipeline(), [prompt.text for prompt in prompts], seed=1)
    assert load_judge()(images)["shape"].count("circle") >= 20


def test_embedded_weights_fit_the_size_they_may_have() -> None:
    sizes = {path: path.stat().st_size for path in embedded_folder("shapes").rglob("*") if path.is_file()}
    overlays = {path for path in sizes if path.parent.name.endswith(("-spm", "-rece"))}
    assert sum(size for path, size in sizes.items() if path not in overlays) <= 16 * 2**20
    assert sum(sizes[path] for path in overlays) <= 2 * 2**20
