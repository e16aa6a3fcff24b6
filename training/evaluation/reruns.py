"""Repeated searches on a few cases: with half the budget, and with another seed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..types import AttackFacts
from .jobs import Jobs, about, name_of
from .plan import described
from .sanity.checks import gradients_alive, halved, seeds_differ

SEARCH_TIERS = ("T2", "T3", "T4")


def checkable(jobs: Jobs) -> list[str]:
    """Return the labels of the searches that can be run again with half their budget."""
    if not jobs.config.checks:
        return []
    return [
        label
        for label, attack in jobs.plan.attacks.items()
        if attack.tier in SEARCH_TIERS and not AttackFacts.of(attack).joint and halved(attack) is not None
    ]


def again(jobs: Jobs, label: str) -> dict[str, Any]:
    """Return the verdicts on a few cases with half the search's budget, and the check with another seed.

    Raises:
        ValueError: If the attack has no budget that can be halved.
    """
    half = halved(jobs.plan.attacks[label])
    if half is None:
        raise ValueError(f"expected an attack with a budget above 1, found {label!r}; name one of checkable()")
    few, seed, name = jobs.few, jobs.config.seed, name_of("check", label, 0)
    inputs = {**about(jobs.first.part(few)), "attack": described(label, half)}

    def compute() -> dict[str, Any]:
        cases, plain = jobs.cases(0)
        cases, plain = cases[few], plain[few]
        with jobs.judging(name) as judge, jobs.defended.attached():
            found = [jobs.found(half, cases, plain, judge, seed=seed)]
            verdicts, _ = jobs.judge(found[0], cases, plain, judge)
            found.append(jobs.found(half, cases, plain, judge, seed=seed + 1))
        asked = [asdict(one) for rows in judge.taken().values() for one in rows]
        searched = [i for i, one in enumerate(plain) if not one.hit]
        first, second = ([one[i] for i in searched] for one in found)
        seeds = (
            asdict(seeds_differ(label, first, second, deterministic=AttackFacts.of(half).deterministic))
            if searched
            else None
        )
        return {"half": [asdict(v) for v in verdicts], "seeds": seeds, "asked_with_other_seed": asked}

    return jobs.cache.get(name, inputs, compute)


def gradients(jobs: Jobs) -> dict[str, Any]:
    """Return the check that gradients reach the input of the attacked text encoder, as JSON values."""

    def compute() -> dict[str, Any]:
        cases, _ = jobs.cases(0)
        with jobs.defended.attached():
            return asdict(gradients_alive(jobs.target(), cases[jobs.few], seed=jobs.config.seed))

    return jobs.cache.get("chunks/check-gradients", about(jobs.first.part(jobs.few)), compute)
