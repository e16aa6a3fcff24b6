"""A process of an evaluation that several share: sharded_worker.py PIPELINE OUT THRESHOLD."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from diffusers import StableDiffusionPipeline
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks import ContinuousPrefix, RandomPrefix, UnlearnDiffAtk
from robust_encoders.training.attacks.transfer import OnBase
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan, Plan, PromptSet
from robust_encoders.training.metrics import ClipScore
from robust_encoders.training.types import AttackResult, Case

WORDS = ("circle", "red circle", "blue ring", "green star", "square", "black cross", "disc", "yellow ball", "box")
SAMPLING = SamplingConfig(steps=2, guidance=3.0, batch=4)


@dataclass(frozen=True)
class Noted(RandomPrefix):
    """Leaves a note of which process ran it, beside the results."""

    name: ClassVar[str] = "random_prefix"
    out: str = ""

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        (Path(self.out) / f"ran-{os.environ.get('RANK', '0')}").touch()
        found: list[AttackResult] = super().run(target, cases, seed=seed)
        return found


class Brightness:
    name = "brightness"
    version = "1"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def prompts(name: str, first: int) -> PromptSet:
    return PromptSet(name, tuple(Case(i, f"a {text}", first + i) for i, text in enumerate(WORDS)))


def plan(threshold: float, out: Path) -> Plan:
    discrete = UnlearnDiffAtk(timesteps=2, iterations=1)
    return Plan(
        concept=Concept(name="circle", kind="object"),
        plain=(prompts("circle/name", 10), prompts("circle/seen", 40)),
        kept=prompts("circle/kept", 70),
        detector=Brightness(threshold),
        attacks={
            "random": Noted(tokens=1, candidates=2, out=str(out)),
            "transfer": OnBase(discrete),
            "discrete": discrete,
            "shared": ContinuousPrefix(steps=2, shared=True, batch=2),
        },
        utility={"clip_score": lambda: ClipScore(lambda images, texts: images.mean((1, 2, 3)))},
    )


if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    made = FixedPlan(plan(float(sys.argv[3]), out))
    evaluate(pipe, None, made, out=out, config=EvaluationConfig(SAMPLING, chunk=2, checks=2))
