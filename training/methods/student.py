"""Training of one component of a base on a loss: the student, its run, and the record of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..trainer.checkpoint import StepLoss
from ..trainer.loop import TrainingConfig, finetune
from ..trainer.run_record import run_record
from ..types import Component
from ..workspace import Workspace

if TYPE_CHECKING:
    from torch import Generator

__all__ = ["Component", "Rollout", "Run", "Student", "train_only", "train_student"]
Rollout = Literal["bank", "student"]


class Student(NamedTuple):
    """A base of which one component is in training.

    Args:
        backbone: Base with a copy of the component.
        module: The copy.
        parameters: Parameters to train, by name.
    """

    backbone: Backbone
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]


class Run(NamedTuple):
    """One training run, apart from its settings.

    Args:
        identity: Identity of the run, see ``run_identity``.
        generator: Generator of all random draws.
        workspace: Folders of checkpoints and bank cache, and the progress switch.
    """

    identity: str
    generator: Generator
    workspace: Workspace


def train_student(
    student: Student, teacher: Backbone, build: Callable[[], StepLoss], *, settings: TrainingConfig, run: Run
) -> dict[str, Any]:
    """Train a student in place on a loss, and return the record of the run.

    Args:
        student: Base with the component in training.
        teacher: Frozen base, whose ``unet_calls`` counts the UNet calls, first those of the bank.
        build: Function that returns the loss; it is called while the base is frozen.
        settings: Settings of the gradient loop.
        run: Identity, generator and workspace.
    """
    started = time.monotonic()
    frozen = teacher.text_encoder if student.module is student.backbone.unet else teacher.unet
    twice = (frozen, student.module) if run.workspace.gradient_checkpointing else ()
    with teacher.frozen(), activation_checkpointing(*twice):
        loss = build()
        bank_calls, teacher.unet_calls = teacher.unet_calls, 0
        parameters = train_only(student.parameters, student.module)
        log = finetune(
            parameters, loss, settings, generator=run.generator, workspace=run.workspace, identity=run.identity
        )
    calls = Shard.current().total(torch.tensor([teacher.unet_calls, bank_calls], device=teacher.device)).tolist()
    return run_record(log, *calls, seconds=time.monotonic() - started, precision=teacher.computes_in)


def train_only(chosen: Mapping[str, nn.Parameter], module: nn.Module) -> dict[str, nn.Parameter]:
    """Let gradients flow into the chosen parameters only, and return these."""
    module.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return dict(chosen)
