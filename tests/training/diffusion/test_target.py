"""The model under attack: what an attacker may hold beside it, and that an evaluation hands out no more than that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.baselines import EmptyPrompt
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan, Plan, PromptSet
from robust_encoders.training.evaluation.recorded import recorded_attacks
from robust_encoders.training.types import AttackResult, AttackUse, Candidate, Case

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

    uses: tuple[AttackUse, ...]
    tier: str = "T2"
    name: str = "probe"
    seen: list[Any] = field(default_factory=list)
    defences: list[Any] = field(default_factory=list)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        self.seen.extend([target.base.text_encoder, target.text_encoder])
        self.defences.append(target.artifact)
        if "queries" in self.uses:
            self.seen.append(target.query(["a star"] * len(cases), cases))
        else:
            with pytest.raises(ValueError, match="only attacks that declare queries receive scores"):
                _ = target.query
        if "drafts" in self.uses:
            self.seen.append(target.draft(["a star", "a star", "a red star"], [cases[0], cases[0], cases[1]], 1))
        else:
            with pytest.raises(ValueError, match="only attacks that declare drafts receive their scores"):
                _ = target.draft
        return [AttackResult((Candidate("text", case.prompt, 1),), int("queries" in self.uses), 0) for case in cases]


def run(pipe: Any, probe: Probe, out: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any = None) -> int:
    """Evaluate under the probe and return the UNet calls that its numbers report."""
    monkeypatch.setattr("robust_encoders.training.evaluation.jobs.described", lambda label, attack: {"label": label})
    monkeypatch.setattr(
        "robust_encoders.training.evaluation.aggregate.described", lambda label, attack: {"label": label}
    )
    prompts = PromptSet("circle/name", CASES)
    concept = Concept(name="circle", kind="object")
    plan = Plan(concept, (prompts,), prompts, Brightness(), {"probe": probe})
    evaluation = evaluate(pipe, encoder, FixedPlan(plan), out=out, config=EvaluationConfig(SAMPLING, checks=0))
    calls: int = next(result.unet_calls for result in evaluation.results if result.metric == "asr_any")
    return calls


@pytest.mark.parametrize("uses", [("unet", "queries"), ("unet",)])
def test_every_attack_sees_the_base_and_only_one_that_declares_queries_is_told_scores(
    make_pipe: Callable[..., Any],
    make_encoder: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uses: tuple[AttackUse, ...],
) -> None:
    pipe = make_pipe()
    encoder, before = make_encoder(pipe), pipe.text_encoder
    probe = Probe(uses)
    run(pipe, probe, tmp_path, monkeypatch, encoder)
    assert probe.seen[0] is before
    assert probe.seen[1] is not before
    if "queries" in uses:
        with encoder.attached(pipe):
            pictures = draw(pipe, ["a star"] * 3, [case.seed for case in CASES], SAMPLING)
        torch.testing.assert_close(probe.seen[2], Brightness()(pictures) - 2.0)


def test_an_attack_sees_the_artifact_that_defends_and_none_for_the_base_or_a_baseline(
    make_pipe: Callable[..., Any],
    make_encoder: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = make_pipe()
    for i, defence in enumerate((encoder := make_encoder(pipe), None, EmptyPrompt())):
        probe = Probe(("unet",))
        run(pipe, probe, tmp_path / str(i), monkeypatch, defence)
        assert probe.defences == [encoder if defence is encoder else None]


def test_queried_pictures_are_paid_for(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = run(tiny_pipe, Probe(()), tmp_path / "blind", monkeypatch)
    told = run(tiny_pipe, Probe(("queries",)), tmp_path / "told", monkeypatch)
    assert told - blind == len(CASES) * SAMPLING.calls_per_picture


def test_a_draft_is_a_picture_of_few_steps_with_the_cases_seed_and_its_score_is_not_a_verdict(
    make_pipe: Callable[..., Any], make_encoder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipe()
    encoder = make_encoder(pipe)
    probe = Probe(("drafts",))
    run(pipe, probe, tmp_path, monkeypatch, encoder)
    (scores,) = probe.seen[2:]
    with encoder.attached(pipe):
        seeds = [CASES[0].seed, CASES[1].seed]
        pictures = draw(pipe, ["a star", "a red star"], seeds, replace(SAMPLING, steps=1))
    expected = (Brightness()(pictures) - 2.0)[[0, 0, 1]]
    torch.testing.assert_close(scores.margins, expected)
    cost = replace(SAMPLING, steps=1).calls_per_picture
    assert scores.unet_calls == (cost, 0, cost), "a text that is read as an earlier one shares its draft"
    (recorded,) = recorded_attacks(tmp_path)
    assert [verdict.drafts for verdict in recorded.verdicts] == [1, 1, 0]
    assert [len(verdict.pictures) for verdict in recorded.verdicts] == [1, 1, 1], "drafts are no judged pictures"


def test_a_target_without_a_base_says_so(tiny_pipe: Any) -> None:
    target = TargetModel.from_pipeline(tiny_pipe, precision="bf16")
    assert isinstance(target, Backbone)
    assert target.precision == "bf16"
    with pytest.raises(ValueError, match="give TargetModel"):
        _ = target.base
