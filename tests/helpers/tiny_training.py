"""Tiny trainings of AdvUnlearn on random models, for tests of methods and objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.methods.advunlearn import _prepare
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.unlearning import Objective
from robust_encoders.training.prompts.layout import Placement
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(
    name="circle", kind="object", synonyms=("disc",), prompts=("a red circle", "a disc on white", "circle")
)
RETAIN = ("a red square", "a star", "a green ring", "a cross")
QUIET = Workspace(progress=False)
TINY = AdvUnlearn(
    retain=RetainConfig(prompts=RETAIN, batch=3),
    unlearn=UnlearnConfig(batch=2),
    adversary=AdversaryConfig(attack=SoftPrompt(steps=2, rate=0.01), warmup=1),
    train=TrainingConfig(iterations=3, rate=1e-3),
    bank=BankConfig(steps=3),
)
OPTIONS = replace(
    TINY,
    retain=RetainConfig(prompts=RETAIN, batch=3, space="both", conditioning_batch=4),
    unlearn=UnlearnConfig(batch=2, target="anchor", plain_weight=1.0, plain_space="conditioning", plain_batch=3),
    adversary=AdversaryConfig(
        attack=SoftPrompt(steps=1),
        warmup=1,
        placements=get_args(Placement),
        tokens=(1, 2),
        start="latest",
        points="fixed",
    ),
    train=TrainingConfig(iterations=8, rate=1e-3, average=0.9, precision="bf16"),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def erase(method: AdvUnlearn, pipe: Any, workspace: Workspace = QUIET, seed: int = 0) -> Edit:
    return method.erase(Backbone.from_pipeline(pipe), CIRCLE, generator=generator(seed), workspace=workspace)


def prepared(
    method: AdvUnlearn, pipe: Any, adversary: AdversaryConfig | None = None, *, concept: Concept = CIRCLE
) -> Objective:
    teacher = Backbone.from_pipeline(pipe)
    teacher.unet.requires_grad_(False)
    made = _prepare(method, adversary or method.adversary, teacher, teacher.clone(), concept=concept, workspace=QUIET)
    teacher.unet_calls = 0
    return made
