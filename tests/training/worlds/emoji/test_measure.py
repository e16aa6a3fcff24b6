"""The finished base is loaded, drawn with and judged; the record and the table say what was counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_emoji import NETWORKS, SIZES, tiny_corpus, tiny_things
from torch import Tensor

from robust_encoders.cli.main import main
from robust_encoders.errors import AssetsMissingError, IntegrityError
from robust_encoders.hub import embedded
from robust_encoders.training.worlds.emoji.captions import EmojiPrompt
from robust_encoders.training.worlds.emoji.clip_score import load_clip_scorer
from robust_encoders.training.worlds.emoji.corpus import EmojiCorpus
from robust_encoders.training.worlds.emoji.judge import load_judge
from robust_encoders.training.worlds.emoji.measure import Measured, as_asked, measure, prompt_sets, table
from robust_encoders.training.worlds.emoji.sheet import sheet, sheet_prompts
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.emoji.vocabulary import BACKGROUNDS, STYLES
from robust_encoders.training.worlds.pretrain import assemble as assembling
from robust_encoders.training.worlds.pretrain.build import build
from robust_encoders.training.worlds.pretrain.workshop import Workshop

SETS = (
    "thing by name", "thing by unseen word", "style by name", "style by unseen word",
    "background by name", "background by unseen word", "thing in everyday wordings",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, corpus = tmp_path_factory.mktemp("base"), tiny_corpus()
    build(corpus, out, stages=("autoencoder", "text", "unet", "judge"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembling, "measured", lambda *_, **__: {})  # it takes most of the time
        assembling.assemble(Workshop(corpus, out / "work", SIZES, 0), out)
    return out


@pytest.fixture(scope="module")
def base(folder: Path) -> Measured:
    return replace(Measured.read(folder, things=tiny_things(), networks=NETWORKS), steps=1)


class Says:
    """A judge that gives the answers that it was made with."""

    version = "1"
    name = "says"
    values: Mapping[str, Sequence[str]] = {}

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        return self.answers


def test_the_loaded_judge_answers_as_the_trained_network_does(folder: Path) -> None:
    corpus = tiny_corpus()
    images = corpus.pictures(12, seed=1).images.float() / 255
    judge = load_judge(folder / "judge.safetensors", things=tiny_things(), networks=NETWORKS)
    own = corpus.reader(Workshop(corpus, folder / "work", SIZES, 0).judge(), "v").probabilities(images)
    assert all(torch.equal(own[label], scores) for label, scores in judge.probabilities(images).items())
    assert len(judge.version) == 12
    assert judge.values["thing"][-1] == "none"


def test_a_judge_of_other_things_is_refused(folder: Path) -> None:
    with pytest.raises(IntegrityError, match="expected a judge of 64 things"):
        load_judge(folder / "judge.safetensors", networks=NETWORKS)


def test_the_clip_score_is_a_cosine_of_each_picture_and_its_caption(folder: Path) -> None:
    scorer = load_clip_scorer(folder, networks=NETWORKS)
    images = tiny_corpus().pictures(5, seed=1).images.float() / 255
    texts = ["a hot dog", "a hammer", "milk", "a beer " * 40, ""]
    found = scorer(images, texts)
    assert found.shape == (5,)
    assert bool((found.abs() <= 1 + 1e-5).all())
    swapped = scorer(images.flip(0), texts[::-1]).flip(0)
    torch.testing.assert_close(found, swapped)


def test_without_the_base_each_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere: Any = lambda name: tmp_path / name  # noqa: E731
    monkeypatch.setattr(embedded, "embedded_folder", nowhere)
    for load in (load_judge, load_clip_scorer, Measured.read):
        with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
            load()


def test_the_sets_ask_for_one_label_by_the_words_that_they_name() -> None:
    things, n = load_things(), 80
    sets = prompt_sets(things, n, seed=0)
    assert tuple(sets) == SETS
    assert all(len(one.prompts) == n for one in sets.values())
    assert all(one.label in prompt.expected for one in sets.values() for prompt in one.prompts)
    for prompt in sets["thing by unseen word"].prompts:
        assert things.by_name[prompt.expected["thing"]].held_out in prompt.text
    for label, words in (("style", STYLES), ("background", BACKGROUNDS)):
        assert all(words[p.expected[label]][-1] in p.text for p in sets[f"{label} by unseen word"].prompts)
        assert all(words[p.expected[label]][0] in p.text for p in sets[f"{label} by name"].prompts)


def test_a_share_counts_the_captions_that_state_the_label() -> None:
    asked = [EmojiPrompt("a", {"thing": "dog"}), EmojiPrompt("b", {"thing": "cat", "style": "noto"}), EmojiPrompt("c")]
    blank = ["none"] * 3
    one = Says(thing=["dog", "cat", "dog"], style=["none", "noto", "noto"], background=blank)
    other = Says(thing=["dog", "dog", "cat"], style=["noto", "fluent", "noto"], background=blank)
    assert as_asked({"one": one, "other": other}, torch.zeros(3, 3, 4, 4), asked) == {
        "thing": {"n": 2, "one": 1.0, "other": 0.5, "both": 0.5},
        "style": {"n": 1, "one": 1.0, "other": 0.0, "both": 0.0},
    }


def test_a_measurement_goes_on_with_the_sets_that_are_missing(
    base: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, drawn = tmp_path / "measure.json", list[int]()
    draw = Measured.draw

    def counted(self: Measured, texts: Sequence[str], *, seed: int) -> Tensor:
        drawn.append(seed)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, texts, seed=seed)

    monkeypatch.setattr(Measured, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(base, 2, seed=5, path=path)
    assert tuple(json.loads(path.read_text())["base"]) == SETS[:2]
    some = measure(base, 2, seed=5, path=path, sets=SETS[3:4])
    assert tuple(some["base"]) == (*SETS[:2], SETS[3])
    whole = measure(base, 2, seed=5, path=path)
    assert len(drawn) == 3 + len(SETS) - 2
    assert tuple(whole["base"]) == SETS
    assert whole == measure(base, 2, seed=5) == json.loads(path.read_text())
    done = len(drawn)
    with pytest.raises(ValueError, match=r"found another \(seed, captions_sha256\); name another folder with --out"):
        measure(base, 2, seed=6, path=path)
    assert len(drawn) == done
    judged = measure(base, 2, seed=5, path=path, corpus=tiny_corpus())["judges_measured"]
    other = replace(tiny_corpus(), origins={"packages": {"none": 2}})
    assert measure(base, 2, seed=5, path=path, corpus=tiny_corpus())["judges_measured"] == judged
    assert measure(base, 2, seed=5, path=path, corpus=other)["judges_measured"] != judged
    path.write_text("[")
    with pytest.raises(ValueError, match="expected a record of this measurement"):
        measure(base, 2, seed=5, path=path)
    assert tuple(measure(base, 2, seed=5, path=tmp_path / "other.json", sets=SETS[:1])["base"]) == SETS[:1]
    path.unlink()
    assert tuple(measure(base, 2, seed=6, path=path, sets=SETS[:1])["base"]) == SETS[:1]


def test_the_record_holds_every_set_and_the_judges_errors(base: Measured) -> None:
    record = json.loads(json.dumps(measure(base, 2, seed=5, corpus=tiny_corpus())))
    assert tuple(record["base"]) == SETS
    asked = [row["as_asked"][row["label"]] for row in record["base"].values()]
    assert all({*shares} == {"n", "trained", "icons", "both"} for shares in asked)
    icons = record["judges_measured"]["icons"]
    assert icons["renders"]["background"] == icons["unknown"]["background"] == 1
    text = table(record)
    assert all(f"| {name} |" in text for name in SETS)
    assert "unknown accepted" in text
    assert record == json.loads(json.dumps(measure(base, 2, seed=5, corpus=tiny_corpus())))


def test_the_sheet_shows_each_picture_and_what_else_was_seen() -> None:
    asked = sheet_prompts(load_things(), 12, seed=0)
    assert len({prompt.text for prompt in asked}) == 12
    images = torch.rand((12, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    right = {label: [prompt.expected.get(label, "x") for prompt in asked] for label in ("thing", "style", "background")}
    others = {**right, "thing": ["owl"] * 12}
    clean, wrong = (sheet(images, asked, {"judge": Says(**found)}) for found in (right, others))
    red = torch.tensor([205, 40, 40])
    written = [torch.from_numpy(np.array(page)).eq(red).all(2).any() for page in (clean, wrong)]
    assert [bool(one) for one in written] == [False, True]
    tile = np.array(clean.crop((12, 12, 140, 140)).resize((16, 16), Image.Resampling.NEAREST))
    assert torch.equal(torch.from_numpy(tile), (images[0] * 255).round().byte().permute(1, 2, 0))


def test_the_command_writes_record_and_sheet(
    base: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measured, "read", lambda folder: base)
    monkeypatch.setattr(EmojiCorpus, "read", lambda sources, work: tiny_corpus())
    out = tmp_path / "out"
    options = ["--out", str(out), "--n", "1", "--sheet", "3", "--seed", "7"]
    assert main(["emoji", "measure", *options]) == 0
    assert "name the packages by --sources" in capsys.readouterr().out
    assert main(["emoji", "measure", *options, "--sources", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    record = json.loads((out / "measure.json").read_text())
    assert (record["n"], record["seed"]) == (1, 7)
    assert table(record).strip() == shown.strip()
    with Image.open(out / "sheet.png") as page:
        assert page.width == 3 * 140 + 12


def test_the_command_without_the_base_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere: Any = lambda name: tmp_path / name  # noqa: E731
    monkeypatch.setattr(embedded, "embedded_folder", nowhere)
    assert main(["emoji", "measure", "--out", str(tmp_path / "out")]) == 1
    assert "reinstall robust-encoders from a wheel" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
