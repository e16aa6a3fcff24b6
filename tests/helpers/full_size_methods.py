"""Two iterations of one method on random weights of a published size: full_size_methods.py ROW SIZE FOLDER.

Attacks take one step, because more steps take time and no memory. FOLDER receives ``found.json``. It is a process of
its own, so that its peak of memory is that of the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import full_size
import torch
from torch import Generator

from robust_encoders import Concept
from robust_encoders.training.attacks.embedding_pgd import EmbeddingPGD
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import ESD, RACE, Ablation, AdvUnlearn
from robust_encoders.training.methods.doco import DoCo, DoCoTrainingConfig
from robust_encoders.training.methods.receler import Receler
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.unet_parameters import UNetGroup, UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="church", kind="object", anchor="building", prompts=("a photo of a church",))
ITERATIONS = 2
_TRAIN = TrainingConfig(iterations=ITERATIONS, precision="bf16")
_BANK = BankConfig(steps=1, batch=1)


def _training(group: UNetGroup) -> TrainingConfig:
    """Cross-attention as it is; the large groups with moments in bfloat16."""
    return _TRAIN if group.startswith("x") else replace(_TRAIN, moments="bf16")


def _esd(group: UNetGroup) -> ESD:
    return ESD(component="unet", unet=UNetSelectionConfig(group=group), train=_training(group), bank=_BANK)


def _race(group: UNetGroup) -> RACE:
    start = _esd(group)
    return RACE(
        start=replace(start, train=replace(start.train, iterations=1)), attack=EmbeddingPGD(steps=1), train=start.train
    )


def _race_te() -> RACE:
    start = ESD(retain=RetainConfig(prompts=full_size.RETAINED), train=replace(_TRAIN, iterations=1), bank=_BANK)
    return RACE(start=start, attack=EmbeddingPGD(steps=1), train=_TRAIN)


def _advunlearn(group: UNetGroup) -> AdvUnlearn:
    return AdvUnlearn(
        component="unet",
        retain=RetainConfig(prompts=full_size.RETAINED),
        unet=UNetSelectionConfig(group=group),
        attack=SoftPrompt(steps=1),
        adversary=AdversaryConfig(warmup=0),
        train=_training(group),
        bank=_BANK,
    )


def _receler() -> Receler:
    train = replace(_TRAIN, rate=3e-4)
    return Receler(attack=AdversarialRowsConfig(steps=1), rollout="bank", train=train, bank=_BANK)


def _ablation(parameters: Any) -> Ablation:
    train = _training("all" if parameters == "full-weight" else "x")
    return Ablation(parameters=parameters, pictures=1, batch=1, train=train, bank=_BANK)


def _doco(component: Literal["text_encoder", "unet"], group: UNetGroup = "x-strict") -> DoCo:
    train = DoCoTrainingConfig(iterations=ITERATIONS, precision="bf16", moments=_training(group).moments)
    return DoCo(
        component=component,
        unet=UNetSelectionConfig(group=group),
        pictures=2,
        batch=2,
        warmup=1,
        train=train,
        bank=_BANK,
    )


ROWS: Mapping[str, Callable[[], Any]] = {
    "ESD, x": lambda: _esd("x"),
    "ESD, u": lambda: _esd("u"),
    "ESD, all": lambda: _esd("all"),
    "RACE, x": lambda: _race("x"),
    "RACE, u": lambda: _race("u"),
    "RACE, all": lambda: _race("all"),
    "RACE, text encoder": _race_te,
    "AdvUnlearn, x": lambda: _advunlearn("x"),
    "AdvUnlearn, u": lambda: _advunlearn("u"),
    "AdvUnlearn, all": lambda: _advunlearn("all"),
    "Receler": _receler,
    "Ablating Concepts, cross-attn": lambda: _ablation("cross-attn"),
    "Ablating Concepts, embedding": lambda: _ablation("embedding"),
    "Ablating Concepts, full-weight": lambda: _ablation("full-weight"),
    "DoCo, x-strict": lambda: _doco("unet"),
    "DoCo, u": lambda: _doco("unet", "u"),
    "DoCo, all": lambda: _doco("unet", "all"),
    "DoCo, text encoder": lambda: _doco("text_encoder"),
}


def run(row: str, size: str, folder: Path) -> dict[str, Any]:
    """Train with activation checkpointing, and return what the run made and took; memory in bytes."""
    pipe = full_size.base(full_size.SIZES[size], folder)
    loaded = full_size.memory()["now"]
    workspace = Workspace(progress=False, gradient_checkpointing=True)
    generator = Generator().manual_seed(0)
    edit = ROWS[row]().erase(Backbone.from_pipeline(pipe), CONCEPT, generator=generator, workspace=workspace)
    return {
        "row": row,
        "size": size,
        "form": edit.form,
        "component": edit.component,
        "numbers": sum(one.numel() for one in edit.tensors.values()),
        "finite": all(bool(torch.isfinite(one).all()) for one in edit.tensors.values()),
        "seconds": edit.log["seconds"],
        "loaded": loaded,
        "peak": full_size.memory()["peak"],
    }


if __name__ == "__main__":
    place = Path(sys.argv[3])
    (place / "found.json").write_text(json.dumps(run(sys.argv[1], sys.argv[2], place)))
