"""The long commands ask for everything that their end needs before anything is loaded, and tell all of it at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import accelerate.utils
import pytest
import torch
from commands import refused, save_artifact
from diffusers import DiffusionPipeline

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.worlds import ShapesWorld


@pytest.fixture(autouse=True)
def nothing_is_loaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a base is loaded, unless the test is marked to load one by taking ``loads``."""
    if "loads" in request.fixturenames:
        return

    def loaded(*args: object, **kwargs: object) -> None:
        pytest.fail("a base was loaded")

    monkeypatch.setattr(ShapesWorld, "pipeline", loaded)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", loaded)
    monkeypatch.setattr(DiffusionPipeline, "download", loaded)


@pytest.fixture
def loads() -> None:
    """Mark a test that loads a base."""


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder with something of the user's."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    return tmp_path / "taken"


@pytest.fixture
def inpainting(tmp_path: Path) -> Path:
    """The configurations of an inpainting base, without weights."""
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {
            "_class_name": "StableDiffusionInpaintPipeline",
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "PNDMScheduler"],
        },
        "unet/config.json": {"in_channels": 9, "out_channels": 4, "sample_size": 64, "cross_attention_dim": 768},
    }
    for name, config in configs.items():
        (tmp_path / "inpainting" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "inpainting" / name).write_text(json.dumps(config))
    return tmp_path / "inpainting"


def test_train_tells_everything_at_once(
    taken: Path, inpainting: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.utils, "is_tensorboard_available", lambda: False)
    prompts = taken / "prompts.txt"
    prompts.write_bytes("a red circle\na caf\u00e9 circle\n".encode("cp1252"))
    said = refused(
        capsys, 2, "train", "esd", "--concept", "circle", "--kind", "object", "--prompts", str(prompts),
        "--out", str(taken), "--base", str(inpainting), "--device", "banana", "--tracker", "tensorboard",
        "--every", "0", "--micro-batch", "0", "--cache-dir", str(prompts),
    )  # fmt: skip
    for text in (
        "8 things are missing or wrong",
        "found other files",
        "pip install tensorboard",
        f"expected UTF-8 in {prompts}, found byte 0xe9 in line 2",
        "found 'banana'",
        "an inpainting base",
        "--every of at least 1, found 0",
        "--micro-batch of at least 1, found 0",
        "found a file; choose another place",
    ):
        assert text in said, text
    assert sorted(path.name for path in taken.iterdir()) == ["notes.txt", "prompts.txt"]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("option", ["--prompts", "--retain-prompts"])
def test_train_reads_every_encoding_with_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, option: str, loads: None
) -> None:
    made = []
    monkeypatch.setattr(ShapesWorld, "pipeline", lambda self: "the embedded base")
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *args, **options: made.append(recipe))
    (tmp_path / "prompts.txt").write_text("a red circle\r\n\na café circle\na red circle\n", encoding=codec)
    arguments = ["train", "uce", "--concept", "circle", option, str(tmp_path / "prompts.txt")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    if option == "--prompts":
        assert made[0].concept.prompts == ("a red circle", "a café circle")
    else:
        assert made[0].method.retained == ("a red circle", "a café circle", "a red circle")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--concept", "circle, square"], "--concept NAME --also OTHER"),
        (["--concept", "circle;square"], "--concept NAME --also OTHER"),
        (["--concept", "circle", "--also", "square,ring"], "write --also square ring"),
        (["--concept", "circle", "--synonyms", "disc, round ball"], 'write --synonyms disc "round ball"'),
        (["--concept", "circle", "--anchor", "square, ring"], "with --anchor, found the list 'square, ring'"),
    ],
)
def test_a_list_in_one_string_is_refused_with_the_option_for_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert said in refused(capsys, 2, "train", "uce", *options, "--out", str(tmp_path / "out"))


def test_synonyms_takes_one_concept_and_a_base_of_the_right_kind(
    inpainting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, 2, "synonyms", "circle, square", "--base", str(inpainting))
    assert "found the list 'circle, square'" in said
    assert "an inpainting base" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [["train", "shapes/circle-esd"], ["evaluate", "base", "--concept", "circle"]])
def test_a_device_that_is_not_there_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    said = refused(capsys, 2, *command, "--device", "cuda", "--out", str(tmp_path / "out"))
    assert "expected a device of this machine, such as cpu" in said
    assert "found 'cuda': " in said


def test_evaluate_tells_everything_at_once(
    taken: Path, inpainting: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nudenet", "torchmetrics", "torchattacks"):
        monkeypatch.setitem(sys.modules, name, None)
    (taken / "cells").write_text("mine")
    (taken / "prompts.csv").write_bytes(b"case_number,prompt,evaluation_seed\n1,a caf\xe9,1\n")
    said = refused(
        capsys, 2, "evaluate", "base", "--concept", "nudity", "--base", str(inpainting), "--device", "banana",
        "--prompts", str(taken / "prompts.csv"), "--kept", str(taken / "none.json"), "--suite", "full",
        "--out", str(taken), "--beside", str(taken), "--strength", str(taken),
    )  # fmt: skip
    for text in (
        f"expected a folder or nothing at {taken / 'cells'}",
        "with --beside, found no results.json",
        "as strength, found no results.json",
        "found 'banana'",
        "an inpainting base",
        "expected nudenet for",
        "expected torchmetrics for FID and KID",
        "expected torchattacks and scipy for torchattack",
        "pip install --no-deps torchattacks",
        "found byte 0xe9 in line 2",
        "none.json",
    ):
        assert text in said, text


def test_evaluate_needs_only_the_packages_of_what_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    options = ["evaluate", "base", "--concept", "circle", "--out", str(tmp_path / "out"), "--device", "banana"]
    assert "torchmetrics" in refused(capsys, 2, *options)
    assert "torchmetrics" not in refused(capsys, 2, *options, "--metrics", "clip_score")


@pytest.mark.parametrize(
    "command",
    [
        ["reproduce", "shapes/circle-esd", "--out"],
        ["merge", "shapes/circle", "shapes/red", "--out"],
        ["train", "shapes/circle-esd", "--out"],
        ["convert", "shapes/circle"],
    ],
)
def test_a_folder_with_other_files_is_refused_before_the_work(
    taken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(RobustEncoder, "from_pretrained", lambda *a, **k: pytest.fail("an encoder was loaded"))
    assert "found other files" in refused(capsys, 2, *command, str(taken))


@pytest.mark.parametrize("command", ["reproduce", "merge"])
def test_a_base_of_another_kind_is_refused_before_an_encoder_is_loaded(
    inpainting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    names = ["shapes/circle", *(["shapes/red"] if command == "merge" else [])]
    options = ["--base", str(inpainting), "--out", str(tmp_path / "out")]
    assert "an inpainting base" in refused(capsys, 2, command, *names, *options)


@pytest.mark.parametrize(
    "command",
    [["demo", "--out"], ["shapes", "build", "--out"], ["cards", "--pictures"], ["leaderboard", "none", "--out"]],
)
def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert f"the file {tmp_path / 'file'}" in refused(capsys, 2, *command, str(tmp_path / "file" / "runs" / "out"))


def test_annotate_asks_for_a_folder_that_can_be_replaced(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, loads: None
) -> None:
    folder = save_artifact(tiny_pipe, tmp_path / "artifact")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(RobustEncoder, "from_pretrained", lambda *a, **k: pytest.fail("an encoder was loaded"))
    assert "this process works in" in refused(capsys, 2, "annotate", str(folder), "--license", "mit")
