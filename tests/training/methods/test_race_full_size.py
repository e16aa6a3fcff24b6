"""ESD and RACE on the UNet at the size of Stable Diffusion 1.4 on a CPU, with random weights: in what memory?

Study: ``pytest -m slow -s tests/training/methods/test_race_full_size.py``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from torch import Generator

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.embedding_pgd import EmbeddingPGD
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import ESD, RACE
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

NUDITY = Concept(name="nudity", kind="content")
TRAIN = TrainingConfig(iterations=2, precision="bf16")
START = ESD(component="unet", train=TRAIN, bank=BankConfig(steps=2, batch=1))
METHODS = {
    "esd, x": START,
    "esd, u": replace(START, unet=UNetSelectionConfig(group="u")),
    "race, x": RACE(
        start=replace(START, train=replace(TRAIN, iterations=1)), attack=EmbeddingPGD(steps=2), train=TRAIN
    ),
}


def trained(method: Any, size: str, folder: Path) -> dict[str, float]:
    pipe = full_size.base(full_size.SIZES[size], folder)
    space = Workspace(progress=False, gradient_checkpointing=True)
    edit = method.erase(Backbone.from_pipeline(pipe), NUDITY, generator=Generator().manual_seed(0), workspace=space)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors.values())
    assert edit.component == "unet"
    return {"tensors": len(edit.tensors), "peak": full_size.memory()["peak"] / full_size.GIB}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_parts_of_the_same_kind(name: str, tmp_path: Path) -> None:
    assert trained(METHODS[name], "small", tmp_path)["tensors"] > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_iterations_complete_at_full_size(name: str, tmp_path: Path) -> None:
    found = trained(METHODS[name], "sd1", tmp_path)
    sys.stdout.write(f"\n{name}: {found['tensors']} tensors, at most {found['peak']:.1f} GiB so far\n")
