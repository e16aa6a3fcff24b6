"""Errors of export, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused
from overlays import make_delta
from safetensors.torch import load_file, save_file
from single_files import save_checkpoint, tensors_of

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state


@pytest.fixture
def encoder(tiny_encoder: RobustEncoder, tmp_path: Path) -> str:
    tiny_encoder.save_pretrained(tmp_path / "circle")
    return str(tmp_path / "circle")


@pytest.fixture
def checkpoint(tiny_pipe: Any, tmp_path: Path) -> Path:
    return save_checkpoint(tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder)), tmp_path / "base.safetensors")


def test_an_application_that_needs_a_base(
    encoder: str, checkpoint: Path, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    for to, base, words in (
        ("a1111", checkpoint, "a single .safetensors file, by --into CHECKPOINT"),
        ("sdcpp", checkpoint, "a single .safetensors file, by --into CHECKPOINT"),
        ("invokeai", tmp_path / "pipe", "with a model_index.json, by --into CHECKPOINT"),
    ):
        command = ["export", encoder, "--to", to, "--out", str(tmp_path / to)]
        assert words in refused(capsys, 2, *command)
        other = tmp_path / "pipe" if base is checkpoint else checkpoint
        told = refused(capsys, 2, *command, "--into", str(other))
        assert f"expected a base that {'InvokeAI' if to == 'invokeai' else ''}" in told
        assert words in told
        assert main([*command, "--into", str(base)]) == 0
        capsys.readouterr()


def test_an_application_without_a_base(
    encoder: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", encoder, "--to", "openclip", "--out", str(tmp_path / "out")]
    assert "expected no base for OpenCLIP" in refused(capsys, 2, *command, "--into", str(checkpoint))
    assert main(command) == 0


def test_a_file_that_is_there(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", encoder, "--to", "comfyui", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    capsys.readouterr()
    assert "choose another folder, or pass --force to replace an earlier export" in refused(capsys, 2, *command)
    assert main([*command, "--force"]) == 0
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    save_file({"a": torch.ones(1)}, tmp_path / "out" / "circle.safetensors")
    capsys.readouterr()
    assert "which is not replaced; choose another folder" in refused(capsys, 2, *command, "--force")


def test_a_checkpoint_beyond_half_precision(
    encoder: str, tiny_encoder: RobustEncoder, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = make_delta(tiny_pipe)
    large = {name: tensor * 1e6 for name, tensor in delta.tensors.items()}
    type(delta)(delta.manifest, large, {}).save_pretrained(tmp_path / "delta")
    half = {name: one.half() for name, one in tensors_of(tiny_pipe, nested_state(tiny_pipe.text_encoder)).items()}
    base = save_checkpoint(half, tmp_path / "half.safetensors")
    command = ["export", str(tmp_path / "delta"), "--to", "a1111", "--out", str(tmp_path / "out"), "--into", str(base)]
    told = refused(capsys, 1, *command)
    for dtype in re.findall(r"choose --dtype (\w+) or (\w+)", told)[0]:
        assert main([*command, "--force", "--dtype", dtype]) == 0


def test_a_pipeline_with_pickles(
    encoder: str, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "pipe", safe_serialization=False)
    for path in (tmp_path / "pipe" / "text_encoder").glob("*.safetensors"):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    command = ["export", encoder, "--to", "invokeai", "--out", str(tmp_path / "out"), "--into", str(tmp_path / "pipe")]
    assert "expected weights as safetensors in" in refused(capsys, 1, *command)
    shutil.rmtree(tmp_path / "pipe")
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    assert main(command) == 0
