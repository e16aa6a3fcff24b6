"""The step from stored evaluations to the data of figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...attacks import ATTACKS
from ...evaluation.threat_model import LIMITS, tier_title
from ...types import AttackFacts, Result, Verdict
from ..rows import attack_rows, plain_rows, worst_rows
from ..stored_evaluation import StoredEvaluation
from ..tables import Row
from ..titles import WORST, short_title
from .figures import Curve, Rate, Spot

_UTILITIES = (("retain_all", "retain, %", 100), ("clip_score", "CLIP score", 1))


def rates_of(stored: StoredEvaluation) -> list[Rate]:
    """Return the bars of an evaluation: without attacks, each attack by tier, and worst cases over several attacks."""
    return [
        *(_rate(row, "plain") for row in plain_rows(stored)),
        *(_rate(row, row.tier) for row in attack_rows(stored)),
        *(_rate(row, "worst") for row in worst_rows(stored, least=2)),
    ]


def _rate(row: Row, group: str) -> Rate:
    number = row.number
    return Rate(row.title, number.value, number.interval, number.bound, marked=bool(number.failed), group=group)


def curves_of(stored: StoredEvaluation) -> list[Curve]:
    """Return a curve for each attack with iterations and known verdicts."""
    return [
        Curve(row.title, curve_points(stored.verdicts[row.label], budget_of(row.attack)), tier_title(row.tier))
        for row in attack_rows(stored)
        if row.label in stored.verdicts and row.tier not in ("T0", "T1", *LIMITS)
    ]


def curve_points(verdicts: Sequence[Verdict], budget: int) -> tuple[tuple[float, float], ...]:
    """Return pairs of an iteration and the share of cases won by then, from iteration 0 to the end of the attack.

    A case that succeeds without the attack is won at iteration 0.

    Args:
        verdicts: Verdicts, one per case.
        budget: Number of iterations of the whole attack, or 0 if it is not known.
    """
    steps = [verdict.step for verdict in verdicts if verdict.step is not None]
    grid = sorted({0, budget, *steps})
    return tuple((at, sum(step <= at for step in steps) / len(verdicts)) for at in grid)


def budget_of(attack: Mapping[str, Any]) -> int:
    """Return the number of iterations that an attack spends on a case; 0 if the settings do not give it."""
    kind = ATTACKS.get(str(attack.get("name", "")))
    named = () if kind is None else AttackFacts.of(kind).iteration_fields
    return math.prod(int(attack.get(key, 1)) for key in named) if named else 0


def spot_of(stored: StoredEvaluation) -> Spot:
    """Return the place of an evaluation in the plot of robustness against utility."""
    found = [(title, scale, stored.named(metric)) for metric, title, scale in _UTILITIES]
    worst = next((row for row in worst_rows(stored) if row.label == WORST), None)
    return Spot(
        short_title(stored.evaluation),
        None if worst is None else _rate(worst, "worst"),
        tuple(_rate(row, row.tier) for row in attack_rows(stored) if row.tier not in LIMITS),
        {title: _scaled(result, scale) for title, scale, result in found if result is not None},
    )


def _scaled(result: Result, scale: int) -> tuple[float, float, float]:
    low, high = result.interval or (result.value, result.value)
    return scale * result.value, scale * low, scale * high
