"""Errors about pipelines with two text encoders, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import refused
from several_encoders import encoder_for, sdxl
from tiny_training import CIRCLE, QUIET, generator

from robust_encoders.cli.main import main
from robust_encoders.training.diffusion.two_encoders import backbone_of
from robust_encoders.training.methods import ESD
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig

SHORT = ("--train.iterations", "1", "--bank.steps", "2", "--bank.limit", "1", "--retain.weight", "0")


def test_a_component_that_the_base_lacks(tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipe.save_pretrained(tmp_path / "one")
    sdxl(tiny_pipe).save_pretrained(tmp_path / "two")
    named = ["--concept", "circle", "--kind", "object", "--family", "tiny", "--device", "cpu", *SHORT]

    def train(base: str, component: str) -> list[str]:
        return ["train", "esd", *named, "--base", str(tmp_path / base), "--out", str(tmp_path / f"{base}-out"),
                "--component", component]  # fmt: skip

    told = refused(capsys, 2, *train("one", "text_encoder_2"))
    assert "choose --component text_encoder, or a base of SDXL" in told
    assert main(train("one", "text_encoder")) == 0
    assert main(train("two", "text_encoder_2")) == 0
    capsys.readouterr()
    command = ["reproduce", str(tmp_path / "two-out"), "--base"]
    told = refused(capsys, 1, *command, str(tmp_path / "one"))
    assert "give the pipeline that the artifact was made from with --base FOLDER" in told
    assert main([*command, str(tmp_path / "two")]) == 0


def test_the_second_encoder_for_another_application(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder_for(sdxl(tiny_pipe)).save_pretrained(tmp_path / "second")
    command = ["export", str(tmp_path / "second"), "--out", str(tmp_path / "out"), "--to"]
    told = refused(capsys, 1, *command, "comfyui")
    assert "or export it with --to diffusers and no base" in told
    assert main([*command, "diffusers"]) == 0
    assert (tmp_path / "out" / "text_encoder_2" / "model.safetensors").is_file()


def test_a_backbone_of_the_other_encoder(tiny_pipe: Any) -> None:
    pipe = sdxl(tiny_pipe)
    method = ESD(
        component="text_encoder_2", retain=RetainConfig(weight=0), train=TrainingConfig(iterations=1),
        bank=BankConfig(steps=2, limit=1),
    )  # fmt: skip
    with pytest.raises(ValueError, match="expected a backbone for component 'text_encoder_2'"):
        method.erase(backbone_of(pipe, "text_encoder"), CIRCLE, generator=generator(), workspace=QUIET)
    backbone = backbone_of(pipe, "text_encoder_2")
    assert method.erase(backbone, CIRCLE, generator=generator(), workspace=QUIET).component == "text_encoder_2"
    ids = backbone.tokenize(["a star"])
    with pytest.raises(ValueError, match=r"gives, found none: pass backbone\.given\(prompts\)"):
        backbone.encode(backbone.embed(ids), ids)
    assert backbone.encode(backbone.embed(ids), ids, backbone.given(["a star"])).shape[0] == 1
