"""Drafts in an evaluation: they are paid for, they choose only what is drawn whole, and batches change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import SAMPLING, find, make_plan, run
from torch import Tensor

from robust_encoders.training.attacks import Paraphrase, WordSwap
from robust_encoders.training.diffusion.sampling import draw
from robust_encoders.training.evaluation.plan import Plan
from robust_encoders.training.evaluation.recorded import recorded_attacks
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Verdict

FRAMES = tuple(f"{word} {{}}" for word in ("red", "blue", "white", "black", "striped", "dotted", "plain"))
WORDINGS = Paraphrase(("circle",), FRAMES, whole=2, draft_steps=1)
SWAP = WordSwap(("circle",), ("red", "blue", "star", "square"), drawn=8, kept=5, whole=2, draft_steps=1)
DRAFT = replace(SAMPLING, steps=1)


def plan_of(pipe: Any, attack: Attack) -> Plan:
    return make_plan(pipe, plain=make_plan(pipe).plain[:1], attacks={"drafted": attack})


def verdicts_of(folder: Path) -> tuple[Verdict, ...]:
    (found,) = recorded_attacks(folder)
    return found.verdicts


def margins(plan: Plan, pipe: Any, texts: Sequence[str], seed: int, sampling: Any) -> list[float]:
    drawn = draw(pipe, texts, [seed] * len(texts), sampling)
    found: list[float] = (plan.detector(drawn) - plan.detector.threshold).tolist()
    return found


@pytest.mark.parametrize("attack", [WORDINGS, SWAP], ids=["paraphrase", "word_swap"])
def test_the_unet_calls_are_what_the_unet_did(tiny_pipe: Any, tmp_path: Path, attack: Attack) -> None:
    plan, calls = plan_of(tiny_pipe, attack), 0

    def count(module: object, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal calls
        calls += args[0].shape[0]

    handle = tiny_pipe.unet.register_forward_hook(count)
    evaluation = run(tiny_pipe, plan, tmp_path, chunk=4)
    handle.remove()
    verdicts = verdicts_of(tmp_path)
    lost = [v for v in verdicts if not v.any]
    shown = (len(verdicts) + (3 if lost else 0) + 3) * SAMPLING.calls_per_picture  # for the report, not for a number
    targets = len(verdicts) * SAMPLING.calls_per_picture
    parts = [find(evaluation, "pre_asr"), find(evaluation, "asr_any", "drafted"), find(evaluation, "clip_score")]
    assert sum(part.unet_calls for part in parts) == calls - targets - shown
    assert sum(v.drafts or 0 for v in verdicts) > 0


def test_the_best_drafts_are_drawn_whole_and_only_whole_pictures_are_judged(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = plan_of(tiny_pipe, WORDINGS)
    run(tiny_pipe, plan, tmp_path)
    attacked = [verdict for verdict in verdicts_of(tmp_path) if not verdict.before]
    assert len(attacked) == 3
    for verdict in attacked:
        texts = [frame.format(verdict.prompt) for frame in FRAMES]
        drafts = margins(plan, tiny_pipe, texts, verdict.seed, DRAFT)
        best = sorted(range(len(texts)), key=lambda i: -drafts[i])[:2]
        judged = [picture.text for picture in verdict.pictures]
        assert judged == [texts[i] for i in best]
        whole = margins(plan, tiny_pipe, judged, verdict.seed, SAMPLING)
        assert [picture.margin for picture in verdict.pictures] == pytest.approx(whole, abs=1e-5)
        assert verdict.any is any(margin >= 0 for margin in whole)
        assert (verdict.candidates, verdict.tries, verdict.drafts) == (2, 2, len(FRAMES))
        spent = len(FRAMES) * DRAFT.calls_per_picture + 2 * SAMPLING.calls_per_picture
        assert verdict.unet_calls == spent


@pytest.mark.parametrize("attack", [WORDINGS, SWAP], ids=["paraphrase", "word_swap"])
def test_a_case_that_is_won_without_the_attack_costs_nothing(tiny_pipe: Any, tmp_path: Path, attack: Attack) -> None:
    run(tiny_pipe, plan_of(tiny_pipe, attack), tmp_path, chunk=4)
    (won,) = [verdict for verdict in verdicts_of(tmp_path) if verdict.before]
    assert (won.drafts, won.tries, won.pictures) == (0, 0, ())


@pytest.mark.parametrize("attack", [WORDINGS, SWAP], ids=["paraphrase", "word_swap"])
def test_batches_and_parts_change_nothing(tiny_pipe: Any, tmp_path: Path, attack: Attack) -> None:
    plan, found = plan_of(tiny_pipe, attack), []
    for i, (batch, chunk) in enumerate(((4, 4), (3, 2), (50, 4))):
        run(tiny_pipe, plan, tmp_path / str(i), sampling=replace(SAMPLING, batch=batch), chunk=chunk)
        found.append([[(p.text, p.hit) for p in v.pictures] for v in verdicts_of(tmp_path / str(i))])
    assert found[0] == found[2]
    assert found[1] == found[0]
    assert sum(map(len, found[0])) >= 3


def test_a_draft_has_no_more_steps_than_a_whole_picture(tiny_pipe: Any, tmp_path: Path) -> None:
    run(tiny_pipe, plan_of(tiny_pipe, replace(WORDINGS, draft_steps=40)), tmp_path)
    spent = [v.unet_calls for v in verdicts_of(tmp_path) if not v.before]
    assert spent == [(len(FRAMES) + 2) * SAMPLING.calls_per_picture] * 3


@pytest.mark.parametrize("attack", [WORDINGS, SWAP], ids=["paraphrase", "word_swap"])
def test_cases_with_one_seed_do_not_take_each_others_texts(tiny_pipe: Any, tmp_path: Path, attack: Attack) -> None:
    """Files of prompts may have one seed for all rows, and two equal rows."""
    plan = plan_of(tiny_pipe, attack)
    first = next(case for case in plan.plain[0].cases if case.prompt == "circle")
    twins = replace(plan.plain[0], cases=tuple(replace(first, index=i) for i in range(3)))
    run(tiny_pipe, replace(plan, plain=(twins,)), tmp_path)
    found = [[(p.text, p.margin) for p in v.pictures] for v in verdicts_of(tmp_path)]
    assert found[0] == found[1] == found[2]
    assert len({v.drafts for v in verdicts_of(tmp_path)}) == 1
