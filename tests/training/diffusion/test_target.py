"""The model under attack: what an attacker may hold beside it, and that an evaluation hands out no more than that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.evaluate import Execution, run_plan
from robust_encoders.training.evaluation.plan import Plan, PromptSet
from robust_encoders.training.types import AttackResult, Candidate, Case

SAMPLING = SamplingConfig(steps=2, guidance=3.0, batch=2)
CASES = tuple(Case(i, text, seed=10 + i) for i, text in enumerate(("a red circle", "circle", "a blue circle")))


class Brightness:
    """Finds the concept nowhere, so that every case is attacked."""

    name = "brightness"
    version = "1"
    threshold = 2.0

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


@dataclass(frozen=True)
class Probe:
    """Asks for everything that an attack can ask for."""

    name: ClassVar[str] = "probe"
    tier: ClassVar[str] = "T3"
    joint: bool = False
    seen: list[Any] = field(default_factory=list)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        self.seen.extend([target.base.text_encoder, target.text_encoder])
        if self.tier == "T2":
            self.seen.append(target.query(["a star"] * len(cases), cases))
        else:
            with pytest.raises(ValueError, match="only attacks of tier T2 are told scores"):
                _ = target.query
        return [AttackResult((Candidate("text", case.prompt, 1),), int(self.tier == "T2"), 0) for case in cases]


class Scored(Probe):
    """The same where scores are told."""

    tier: ClassVar[str] = "T2"


PROBES = {"T2": Scored, "T3": Probe}


def run(pipe: Any, probe: Probe, out: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any = None) -> int:
    """Evaluate under the probe and return the UNet calls that its numbers report."""
    monkeypatch.setattr("robust_encoders.training.evaluation.jobs.described", lambda label, attack: {"label": label})
    monkeypatch.setattr(
        "robust_encoders.training.evaluation.aggregate.described", lambda label, attack: {"label": label}
    )
    prompts = PromptSet("circle/name", CASES)
    plan = Plan("circle", (prompts,), prompts, Brightness(), {"probe": probe}, utility=list)
    evaluation = run_plan(pipe, encoder, plan, Execution(SAMPLING), out=out)
    calls: int = next(result.unet_calls for result in evaluation.results if result.metric == "asr_any")
    return calls


@pytest.mark.parametrize("tier", ["T2", "T3"])
def test_every_tier_sees_the_base_and_only_t2_is_told_scores(
    make_pipe: Callable[..., Any],
    make_encoder: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tier: str,
) -> None:
    pipe = make_pipe()
    encoder, before = make_encoder(pipe), pipe.text_encoder
    probe = PROBES[tier]()
    run(pipe, probe, tmp_path, monkeypatch, encoder)
    assert probe.seen[0] is before
    assert probe.seen[1] is not before
    if tier == "T2":
        with encoder.attached(pipe):
            pictures = draw(pipe, ["a star"] * 3, [case.seed for case in CASES], SAMPLING)
        torch.testing.assert_close(probe.seen[2], Brightness()(pictures) - 2.0)


def test_queried_pictures_are_paid_for(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind, told = (run(tiny_pipe, PROBES[tier](), tmp_path / tier, monkeypatch) for tier in ("T3", "T2"))
    assert told - blind == len(CASES) * SAMPLING.calls_per_picture


def test_a_target_without_a_base_says_so(tiny_pipe: Any) -> None:
    target = TargetModel.from_pipeline(tiny_pipe, precision="bf16")
    assert isinstance(target, Backbone)
    assert target.precision == "bf16"
    with pytest.raises(ValueError, match="give TargetModel"):
        _ = target.base
