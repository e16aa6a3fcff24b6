"""Small plans on tiny random models, for tests of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks import ContinuousPrefix, UnlearnDiffAtk
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.defence import Defence
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import Control, FixedPlan, Plan, PromptSet
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.metrics import ClipScore, ConceptRate
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case, Result

SAMPLING = SamplingConfig(steps=2, guidance=3.0, batch=4)
ATTACKS: dict[str, Attack] = {
    "continuous": ContinuousPrefix(steps=2),
    "shared": ContinuousPrefix(steps=2, shared=True),
    "discrete": UnlearnDiffAtk(timesteps=2, iterations=1),
}


class HalfDetector:
    """Finds the concept in pictures that are brighter than a random model's commonly are."""

    name = "half"
    version = "1"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def prompt_set(name: str, texts: Sequence[str], tier: str = "T0") -> PromptSet:
    cases = (Case(i, text, seed=10 + i, expected={"shape": "circle"}) for i, text in enumerate(texts))
    return PromptSet(name, tuple(cases), tier)


def make_plan(pipe: Any, **changes: Any) -> Plan:
    name = prompt_set("circle/name", ["a red circle", "circle", "a blue circle", "a circle on black"])
    brightness = draw(pipe, [c.prompt for c in name.cases], [c.seed for c in name.cases], SAMPLING).mean((1, 2, 3))
    detector = HalfDetector(float(brightness.sort().values[2:].mean()))

    def renders() -> tuple[Tensor, list[Case]]:
        return torch.ones(2, 3, 4, 4), list(name.cases[:2])

    plan = Plan(
        concept=Concept(name="circle", kind="object"),
        plain=(name, prompt_set("circle/seen", ["a disc", "a red ball"], "T1")),
        kept=prompt_set("circle/kept", ["a square", "a blue box", "star"]),
        detector=detector,
        attacks=ATTACKS,
        utility={"clip_score": lambda: ClipScore(lambda images, texts: images.mean((1, 2, 3)))},
        control=Control("renders", renders, lambda: [ConceptRate(detector, "judge_shape")]),
    )
    return replace(plan, **changes)


def run(pipe: Any, plan: Plan, out: Path, encoder: Defence | None = None, **changes: Any) -> Evaluation:
    config = EvaluationConfig(**{"sampling": SAMPLING, "chunk": 3, "checks": 0, **changes})
    return evaluate(pipe, encoder, FixedPlan(plan), out=out, config=config)


def without_seconds(path: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((path / RESULTS_NAME).read_text(encoding="utf-8"))
    assert stored.pop("seconds")
    return stored


def find(evaluation: Evaluation, metric: str, label: str = "") -> Result:
    found = [
        result
        for result in evaluation.results
        if result.metric == metric and result.settings.get("attack", {}).get("label", "") == label
    ]
    return found[0]
