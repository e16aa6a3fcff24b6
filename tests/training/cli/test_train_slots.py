"""``train --component text_encoder_2``: from a folder with SDXL to an artifact, and what is refused before loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from diffusers import DiffusionPipeline
from several_encoders import sdxl

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main

SMALL = ("--train.iterations", "2", "--bank.steps", "2", "--unlearn.batch", "2", "--retain.batch", "2")
OF_SDXL: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    },
    "text_encoder/config.json": {"hidden_size": 768},
    "text_encoder_2/config.json": {"hidden_size": 1280},
    "unet/config.json": {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
    },
    "scheduler/scheduler_config.json": {"prediction_type": "epsilon"},
}


def written(folder: Path, changes: dict[str, dict[str, Any]]) -> str:
    """Write the configurations of SDXL with changes, without weights."""
    for name, config in OF_SDXL.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({**config, **changes.get(name, {})}))
    return str(folder)


def train(method: str, base: str, out: Path, *options: str) -> list[str]:
    named = {"--base": base, "--concept": "circle", "--kind": "object", "--out": str(out), "--device": "cpu"}
    return ["train", method, *(part for pair in named.items() for part in pair), *options]


@pytest.mark.parametrize("method", ["esd", "advunlearn"])
def test_the_second_encoder_is_trained_and_fits_its_slot(
    tiny_pipe: Any, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sdxl(tiny_pipe).save_pretrained(tmp_path / "base")
    (tmp_path / "kept.txt").write_text("a red square\na star\n")
    attacked = ("--adversary.warmup", "1", "--attack.steps", "2") if method == "advunlearn" else ()
    chosen = ("--component", "text_encoder_2", "--family", "tiny-xl", *SMALL, *attacked)
    kept = ("--retain-prompts", str(tmp_path / "kept.txt"))
    assert main(train(method, str(tmp_path / "base"), tmp_path / "out", *chosen, *kept)) == 0
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.form, manifest.component, manifest.base.family) == ("weights", "text_encoder_2", "tiny-xl")
    assert manifest.method["component"] == "text_encoder_2"
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out"), str(tmp_path / "base"), "--allow-partial"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "fits slot 2 of 2: partial"
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "text_encoder_2" in capsys.readouterr().out


REFUSED: dict[str, tuple[str, tuple[str, ...], dict[str, dict[str, Any]], str]] = {
    "another method": (
        "uce", (), {}, "expected advunlearn, esd, hirm or s_grace on a base with two text encoders, found uce"
    ),
    "the UNet": ("esd", ("--component", "unet"), {}, "on a base with two text encoders, found 'unet'"),
    "terms on conditionings": (
        "advunlearn", ("--hardening.objective", "both"), {}, "terms on predictions alone on a base with two text"
    ),
    "the refiner": (
        "esd", ("--component", "text_encoder_2"),
        {"model_index.json": {"text_encoder": [None, None], "tokenizer": [None, None]}},
        "StableDiffusionXLPipeline without tokenizer, text_encoder, as the refiner is",
    ),
    "inpainting": ("esd", (), {"unet/config.json": {"in_channels": 9}}, "an inpainting base"),
    "another second encoder": (
        "esd", (), {"model_index.json": {"text_encoder_2": ["transformers", "T5EncoderModel"]}},
        "with T5EncoderModel as its text_encoder_2",
    ),
    "widths": ("esd", (), {"unet/config.json": {"cross_attention_dim": 1280}}, "text encoders of widths 768 and 1280"),
    "no sizes": ("esd", (), {"unet/config.json": {"addition_embed_type": None}}, "whose UNet takes no sizes"),
    "flow": (
        "esd", (), {"scheduler/scheduler_config.json": {"prediction_type": "flow_prediction"}}, "'flow_prediction'"
    ),
    "one encoder": (
        "esd", ("--component", "text_encoder_2"),
        {
            "model_index.json": {"_class_name": "StableDiffusionPipeline", "text_encoder_2": None},
            "unet/config.json": {"cross_attention_dim": 768, "addition_embed_type": None},
        },
        "expected a base with a text_encoder_2, as SDXL has, for component 'text_encoder_2', found StableDiff",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("method", "options", "changes", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(
    method: str,
    options: tuple[str, ...],
    changes: dict[str, dict[str, Any]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *args, **options: pytest.fail("a base was loaded"))
    base = written(tmp_path / "base", changes)
    assert said in refused(capsys, 2, *train(method, base, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_the_embedded_base_has_one_text_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "esd", "--concept", "circle", "--component", "text_encoder_2", "--out", str(tmp_path / "out")]
    assert "expected a base with a text_encoder_2" in refused(capsys, 2, *command)
