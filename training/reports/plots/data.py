"""From stored evaluations to what the figures draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluation.sanity.trust import failed_checks, failed_checks_of_all
from ...evaluation.threat_model import LIMITS, attack_of, label_of, tier_of, tier_title
from ...types import Result, Verdict
from ..stored_evaluation import StoredEvaluation, WorstCaseRate
from ..tables import who_of
from .figures import Curve, Rate, Spot

# The names say what the bars can be compared with.
WORST = "worst case, T0-T3"
WORST_EMBEDDINGS = "worst case, T0-T4"
# What an attack's iterations are, as its candidates count them; a product where it nests them.
_ITERATIONS: Mapping[str, tuple[str, ...]] = {
    "black_box": ("budget",),
    "concept_inversion": ("steps",),
    "continuous_prefix": ("steps", "restarts"),
    "p4d": ("steps",),
    "random_prefix": ("candidates",),
    "ring_a_bell": ("generations",),
    "torchattack": ("steps",),
    "unlearn_diff_atk": ("timesteps", "iterations"),
}
_UTILITIES = (("retain_all", "retain, %", 100), ("clip_score", "CLIP score", 1))


def short_title(stored: StoredEvaluation) -> str:
    """Return who was evaluated, with which seed, in a few words."""
    one = stored.evaluation
    seeds = sorted({seed for result in one.results for seed in result.seeds})
    return ", ".join([who_of(one), *(f"seed {seed}" for seed in seeds[:1])])


def attack_title(result: Result) -> str:
    """Return an attack's label with its threat tier."""
    return " ".join(filter(None, (label_of(result), tier_of(result))))


def rates_of(stored: StoredEvaluation) -> list[Rate]:
    """Return the bars of an evaluation: unattacked, each attack by tier, and the worst cases."""
    plain = [
        Rate(f"no attack: {r.prompt_set.rpartition('/')[2]}", r.value, r.interval, group="plain") for r in stored.plain
    ]
    worst = [worst_rate(stored, one, label) for label, one in worst_cases(stored)]
    return [*plain, *attack_rates_of(stored), *worst]


def worst_cases(stored: StoredEvaluation) -> list[tuple[str, WorstCaseRate]]:
    """Return name and value of each worst case over at least two attacks."""
    named = ((WORST, stored.worst_case), (WORST_EMBEDDINGS, stored.worst_case_embeddings))
    return [(label, worst) for label, worst in named if worst is not None and len(worst.labels) > 1]


def attack_rates_of(stored: StoredEvaluation) -> tuple[Rate, ...]:
    """Return one rate for each attack, weakest tier first."""
    return tuple(attack_rate(stored, result) for result in stored.attacks.values())


def attack_rate(stored: StoredEvaluation, result: Result) -> Rate:
    """Return the bar of one attack."""
    doubtful = bool(failed_checks(stored.evaluation, result))
    return Rate(attack_title(result), result.value, result.interval, doubtful=doubtful, group=tier_of(result))


def worst_rate(stored: StoredEvaluation, worst: WorstCaseRate, label: str = WORST) -> Rate:
    """Return the bar of a worst case."""
    doubtful = bool(failed_checks_of_all(stored.evaluation, worst.labels))
    return Rate(label, worst.value, worst.interval, bound=not worst.exact, doubtful=doubtful, group="worst")


def curves_of(stored: StoredEvaluation) -> list[Curve]:
    """Return a curve for each attack that goes on for some time, and whose verdicts are known."""
    return [
        Curve(attack_title(r), curve_points(stored.verdicts[label], budget_of(attack_of(r))), tier_title(tier_of(r)))
        for label, r in stored.attacks.items()
        if label in stored.verdicts and tier_of(r) not in ("T0", "T1", *LIMITS)
    ]


def curve_points(verdicts: Sequence[Verdict], budget: int) -> tuple[tuple[float, float], ...]:
    """Return the share of cases won by each iteration at which one was won, from 0 to the end of the attack.

    A case that succeeds without the attack is won at 0.

    Args:
        verdicts: One per case.
        budget: Iterations of the whole attack, if known, else 0.
    """
    steps = [verdict.step for verdict in verdicts if verdict.step is not None]
    grid = sorted({0, budget, *steps})
    return tuple((at, sum(step <= at for step in steps) / len(verdicts)) for at in grid)


def budget_of(attack: Mapping[str, Any]) -> int:
    """Return how many iterations an attack spends on a case by its settings; 0 where they do not say."""
    named = _ITERATIONS.get(attack.get("name", ""), ())
    return math.prod(int(attack.get(key, 1)) for key in named) if named else 0


def spot_of(stored: StoredEvaluation) -> Spot:
    """Return an evaluation's place between robustness and utility."""
    found = [(title, scale, stored.named(metric)) for metric, title, scale in _UTILITIES]
    worst = stored.worst_case
    return Spot(
        short_title(stored),
        None if worst is None else worst_rate(stored, worst),
        tuple(rate for rate in attack_rates_of(stored) if rate.group not in LIMITS),
        {title: _scaled(result, scale) for title, scale, result in found if result is not None},
    )


def _scaled(result: Result, scale: int) -> tuple[float, float, float]:
    low, high = result.interval or (result.value, result.value)
    return scale * result.value, scale * low, scale * high
