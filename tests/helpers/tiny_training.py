"""Tiny trainings of AdvUnlearn on random models, for tests of methods and objectives."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args

import torch

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.methods.terms import TermsMethod, build_objective
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.terms import Iteration, LossTerm, Objective, TermRows
from robust_encoders.training.objectives.unlearning import PredictionAttack, Unlearn
from robust_encoders.training.prompts.layout import Placement
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(
    name="circle", kind="object", synonyms=("disc",), prompts=("a red circle", "a disc on white", "circle")
)
RETAIN = ("a red square", "a star", "a green ring", "a cross")
# The same with an anchor, which terms on outliers want.
ANCHORED = replace(CIRCLE, anchor="star")
QUIET = Workspace(progress=False)
TINY = AdvUnlearn(
    retain=RetainConfig(prompts=RETAIN, batch=3),
    unlearn=UnlearnConfig(batch=2),
    attack=SoftPrompt(steps=2, rate=0.01),
    adversary=AdversaryConfig(warmup=1),
    train=TrainingConfig(iterations=3, rate=1e-3),
    bank=BankConfig(steps=3),
)
OPTIONS = replace(
    TINY,
    retain=RetainConfig(prompts=RETAIN, batch=3, space="both", conditioning_batch=4),
    unlearn=UnlearnConfig(batch=2, target="anchor", plain_weight=1.0, plain_space="conditioning", plain_batch=3),
    attack=SoftPrompt(steps=1),
    adversary=AdversaryConfig(
        warmup=1,
        placements=get_args(Placement),
        tokens=(1, 2),
        start="latest",
        points="fixed",
    ),
    train=TrainingConfig(iterations=8, rate=1e-3, average=0.9, precision="bf16"),
)

T = TypeVar("T")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def erase(
    method: AdvUnlearn, pipe: Any, workspace: Workspace = QUIET, seed: int = 0, concept: Concept = CIRCLE
) -> Edit:
    return method.erase(Backbone.from_pipeline(pipe), concept, generator=generator(seed), workspace=workspace)


def prepared(method: TermsMethod, pipe: Any, *, concept: Concept = CIRCLE) -> Objective:
    """Return the objective of a training that is about to begin."""
    teacher = Backbone.from_pipeline(pipe)
    teacher.unet.requires_grad_(False)
    made = build_objective(method, teacher, teacher.clone(), concept=concept, workspace=QUIET)
    teacher.unet_calls = 0
    return made


def trained(method: AdvUnlearn, pipe: Any, *, concept: Concept = CIRCLE) -> tuple[Backbone, Objective]:
    """Return what a method trains, and its objective before."""
    before = prepared(method, pipe, concept=concept)
    edit, after = erase(method, pipe, concept=concept), before.teacher.clone()
    names = list(after.text_encoder.state_dict())
    after.text_encoder.load_state_dict(dict(zip(names, edit.tensors.values(), strict=True)))
    return after, before


def term_of(objective: Objective, kind: type[T]) -> T:
    """Return the one term of a kind."""
    (found,) = (term for term in objective.terms if isinstance(term, kind))
    return found


def attack_of(objective: Objective) -> PredictionAttack:
    """Return the attack through the UNet."""
    found = term_of(objective, Unlearn).attack
    assert found is not None
    return found


def drawn(term: LossTerm, seed: int = 0, *, attacked: bool = True) -> TermRows:
    """Return a term's rows of an iteration of its own."""
    rows = term.rows(Iteration(generator(seed), attacked))
    assert rows is not None
    return rows


def sharded(made: T, shard: Shard) -> T:
    """Return an objective, a term, or what it is made of, as another process has it."""

    def other(part: Any) -> Any:
        if isinstance(part, Shard):
            return shard
        if isinstance(part, list):
            return [other(one) for one in part]
        ours = type(part).__module__.startswith("robust_encoders.training.objectives")
        return sharded(part, shard) if ours and is_dataclass(part) else part

    whole: Any = made
    found: T = replace(whole, **{field.name: other(getattr(whole, field.name)) for field in fields(whole)})
    return found
