"""A process of a training that several share: training_worker.py PIPELINE OUT; run by test_several_processes.py.

It trains each of ``RECIPES``, notes which points it drew, and interrupts and resumes one of the runs. A process of an
SPM draws all points and computes its rows. Alone, it takes the batches that several processes take together.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import StableDiffusionPipeline
from torch import Generator, Tensor

from robust_encoders import Concept
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import SPM, AdvUnlearn
from robust_encoders.training.methods.spm import SPMTrainingConfig
from robust_encoders.training.objectives.config import (
    AdversaryConfig,
    HardeningConfig,
    OutlierConfig,
    RetainConfig,
    UnlearnConfig,
)
from robust_encoders.training.objectives.terms import Objective, Points
from robust_encoders.training.protocols import Method, WorkspaceMethod
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.run import for_processes, run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

PROCESSES = 2
# Adam's steps are as long as the rate however small a gradient is: where rounding turns the sign of one that is nearly
# nothing, a number moves by whole steps, and the processor decides which one. Not if the gradient is small beside this.
EPSILON = 1e-3
# So small that rounding, which may turn the sign of a gradient, changes nothing that counts.
ATTACK = SoftPrompt(steps=2, rate=1e-5)
CIRCLE = Concept(
    name="circle",
    kind="object",
    anchor="star",
    synonyms=("disc",),
    prompts=("a red circle", "a disc on white", "circle"),
)
# Three prompts for the two times two that the conditioning terms want: the processes' parts differ in size.
RETAIN = ("a red square", "a star", "a green ring")
PAPER = AdvUnlearn(
    retain=RetainConfig(prompts=RETAIN, batch=2),
    unlearn=UnlearnConfig(batch=1),
    attack=SoftPrompt(steps=2, rate=0.01),
    adversary=AdversaryConfig(warmup=1),
    select=SelectionConfig(),
    train=TrainingConfig(iterations=4, rate=1e-3, clip=1.0),
    bank=BankConfig(steps=3, mode="fresh"),
)
OPTIONS = replace(
    PAPER,
    retain=RetainConfig(prompts=RETAIN, batch=2, space="both", conditioning_batch=2),
    unlearn=UnlearnConfig(
        batch=2, target="anchor", plain_weight=1.0, plain_space="conditioning", plain_batch=2, pull_weight=1.0
    ),
    adversary=AdversaryConfig(warmup=1, tokens=(1, 2), start="latest"),
    train=TrainingConfig(iterations=4, rate=1e-3, average=0.9),
    bank=BankConfig(steps=3),
)
HARDENED = replace(
    OPTIONS,
    unlearn=UnlearnConfig(batch=2, target="anchor"),
    adversary=AdversaryConfig(warmup=1, in_place=(1,), shared=0.8, restart=0.2),
    hardening=HardeningConfig(objective="both", batch=2),
    hardening_attack=ATTACK,
    train=TrainingConfig(iterations=6, rate=1e-3),
)
OUTLIERS = OutlierConfig(
    alternatives=("square", "star", "ring"),
    strings_weight=2.0,
    strings_batch=2,
    shuffled_weight=2.0,
    shuffled_batch=2,
    off_manifold_weight=2.0,
    off_manifold_batch=2,
    inserted_weight=2.0,
    inserted_batch=2,
    caption_share=0.5,
    searched_weight=2.0,
    searched=3,
    searched_batch=2,
    searched_tokens=3,
)
STRICT = replace(
    HARDENED,
    adversary=AdversaryConfig(warmup=1),
    hardening=HardeningConfig(),
    outliers=OUTLIERS,
)
ADAPTERS = SPM(
    where="both",
    batch=1,
    anchors=3,
    retain=RETAIN,
    retain_batch=2,
    anchor_weight=1.0,
    rollout="bank",
    train=SPMTrainingConfig(iterations=4, rate=1e-2, warmup=0),
    bank=BankConfig(steps=3),
)
METHODS: dict[str, Method] = {
    "paper": PAPER,
    "options": OPTIONS,
    "hardened": HARDENED,
    "strict": STRICT,
    "spm": ADAPTERS,
}
RECIPES = {
    name: Recipe(name=f"tiny/{name}", concept=CIRCLE, method=method, seed=3, base="tiny")
    for name, method in METHODS.items()
}
Drawn = list[tuple[list[int], list[int]]]


def noted(drawn: Drawn) -> None:
    """Note prompts and timesteps of all points that this process gets from now on."""
    sample = Points.sample

    def noting(self: Points, *given: Any) -> Any:
        index, points = sample(self, *given)
        drawn.append((points.prompt_index.tolist(), points.t.tolist()))
        return index, points

    Points.sample = noting  # type: ignore[method-assign, assignment]


def resumed(recipe: Recipe, pipe: Any, folder: Path) -> Mapping[str, Tensor]:
    """Return what the recipe's method gives where its run was interrupted after three iterations."""
    call = Objective.__call__

    def interrupted(self: Objective, iteration: int, generator: Generator) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return call(self, iteration, generator)

    # Several processes share out the trajectories of a bank on disk, so they run in other batches than in memory.
    method = recipe.method
    assert isinstance(method, WorkspaceMethod)
    space = Workspace(folder=folder / "checkpoints", cache_dir=folder / "bank", every=2, progress=False)
    for step in (interrupted, call):
        Objective.__call__ = step  # type: ignore[method-assign]
        try:
            edit = method.erase(
                Backbone.from_pipeline(pipe),
                recipe.concept,
                generator=Generator().manual_seed(recipe.seed),
                workspace=space,
            )
        except KeyboardInterrupt:
            continue
    tensors: Mapping[str, Tensor] = edit.tensors
    return tensors


@patch.object(torch.optim, "Adam", partial(torch.optim.Adam, eps=EPSILON))
def main(pipeline: str, out: Path) -> None:
    pipe: Any = StableDiffusionPipeline.from_pretrained(pipeline)
    rank, alone = os.environ.get("RANK", "0"), "RANK" not in os.environ
    record: dict[str, Any] = {}
    drawn: Drawn = []
    noted(drawn)
    for name, recipe in RECIPES.items():
        encoder = run_recipe(for_processes(recipe, PROCESSES) if alone else recipe, pipe, out / name, progress=False)
        record[name] = {"points": list(drawn), "hash": content_sha256(encoder.tensors)}
        drawn.clear()
    again = resumed(for_processes(RECIPES["options"], PROCESSES), pipe, out / "resumed")
    record["resumed"] = content_sha256(again)
    out.mkdir(exist_ok=True)
    (out / f"record-{rank}.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
