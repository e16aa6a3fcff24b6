"""G is the naive sum, is kept under the matrices it is of, and never taken from a damaged or foreign file."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.diffusion import cross_attention as base_statistics
from robust_encoders.training.diffusion.cross_attention import GramMatrix


def file_of(folder: Path) -> Path:
    (path,) = (folder / "statistics").glob("*.safetensors")
    return path


@pytest.fixture
def made(tiny_pipe: Any, tmp_path: Path) -> GramMatrix:
    return GramMatrix.of(tiny_pipe.unet, tmp_path)


def test_the_sum_is_over_every_k_and_v(tiny_pipe: Any, made: GramMatrix) -> None:
    naive: Any = sum(
        w.weight.detach().double().T @ w.weight.detach().double() for w in key_value_layers(tiny_pipe.unet).values()
    )
    torch.testing.assert_close(made.gram, naive, rtol=1e-12, atol=1e-12)
    assert made.gram.dtype == torch.float64


def test_a_second_time_it_is_read(
    tiny_pipe: Any, made: GramMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_statistics, "_gram", None)
    again = GramMatrix.of(tiny_pipe.unet, tmp_path)
    assert torch.equal(again.gram, made.gram)
    assert again.key == made.key == file_of(tmp_path).stem


def test_without_a_folder_nothing_is_kept(tiny_pipe: Any, made: GramMatrix) -> None:
    assert torch.equal(GramMatrix.of(tiny_pipe.unet).gram, made.gram)


def test_other_matrices_have_another_file(tiny_pipe: Any, made: GramMatrix, tmp_path: Path) -> None:
    with torch.no_grad():
        next(iter(key_value_layers(tiny_pipe.unet).values())).weight[0, 0] += 1e-3
    other = GramMatrix.of(tiny_pipe.unet, tmp_path)
    assert other.key != made.key
    assert not torch.equal(other.gram, made.gram)
    assert len(list((tmp_path / "statistics").iterdir())) == 2


@pytest.mark.parametrize("how", ["cut", "bit", "width", "nothing", "foreign", "old"])
def test_what_is_damaged_or_of_another_unet_is_computed_anew_and_said(
    how: str, tiny_pipe: Any, made: GramMatrix, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of(tmp_path)
    parts = load_file(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "bit":
        save_file({**parts, "gram": parts["gram"] * (1 + 1e-12)}, path)
    elif how == "width":
        save_file({**parts, "gram": torch.eye(8, dtype=torch.float64)}, path)
    elif how == "nothing":
        save_file({"other": torch.zeros(1)}, path)
    elif how == "old":
        save_file({"gram": parts["gram"]}, path)
    else:
        with torch.no_grad():
            next(iter(key_value_layers(tiny_pipe.unet).values())).weight.mul_(2)
        made = GramMatrix.of(tiny_pipe.unet)
        shutil.move(path, path.with_stem(made.key))
    with caplog.at_level(logging.WARNING):
        found = GramMatrix.of(tiny_pipe.unet, tmp_path)
    assert "computing" in caplog.text
    assert torch.equal(found.gram, made.gram)
    caplog.clear()
    assert torch.equal(GramMatrix.of(tiny_pipe.unet, tmp_path).gram, made.gram)
    assert caplog.text == ""
