"""From finished evaluations to what the figures draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import Curve, Rate, Spot
from .finished import Finished, WorstCase, attack_of
from .protocols import Result
from .report import LABELS
from .verdicts import Verdict

# Of the text an encoder sees; the name says what its bar can be compared with.
WORST = "worst case of texts"
_UTILITIES = (("retain_all", "retain, %", 100), ("clip_score", "CLIP score", 1))


def short_title(finished: Finished) -> str:
    """Return who was evaluated, with which seed, in a few words."""
    one = finished.evaluation
    seeds = sorted({seed for result in one.results for seed in result.seeds})
    return ", ".join([LABELS.get(one.label, one.label), *(f"seed {seed}" for seed in seeds[:1])])


def attack_title(result: Result) -> str:
    """Return an attack's label with its threat tier."""
    attack = attack_of(result)
    return " ".join(filter(None, (attack.get("label", ""), attack.get("tier", ""))))


def rates_of(finished: Finished) -> list[Rate]:
    """Return the bars of an evaluation: unattacked, each attack, and the worst case by text."""
    plain = [Rate(f"no attack: {r.prompt_set.rpartition('/')[2]}", r.value, r.interval) for r in finished.plain]
    worst = finished.worst_case
    rows = [] if worst is None or len(worst.labels) < 2 else [worst_rate(worst)]
    return [*plain, *attack_rates_of(finished), *rows]


def attack_rates_of(finished: Finished) -> tuple[Rate, ...]:
    """Return one rate for each attack."""
    return tuple(Rate(attack_title(r), r.value, r.interval) for r in finished.attacks.values())


def worst_rate(worst: WorstCase) -> Rate:
    """Return the bar of a worst case."""
    return Rate(WORST, worst.value, worst.interval, bound=not worst.exact)


def curves_of(finished: Finished) -> list[Curve]:
    """Return a curve for each attack whose verdicts are known."""
    return [
        Curve(attack_title(result), curve_points(finished.verdicts[label], _budget(attack_of(result))))
        for label, result in finished.attacks.items()
        if label in finished.verdicts
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


def _budget(attack: Mapping[str, Any]) -> int:
    """Return how many iterations an attack spends on a case by its settings; 0 where they do not say."""
    product = 1
    named = {
        "continuous_prefix": ("steps", "restarts"),
        "unlearn_diff_atk": ("timesteps", "iterations"),
        "random_prefix": ("candidates",),
    }.get(attack.get("name", ""), ())
    for key in named:
        product *= int(attack.get(key, 1))
    return product if named else 0


def spot_of(finished: Finished) -> Spot:
    """Return an evaluation's place between robustness and utility."""
    found = [(title, scale, finished.named(metric)) for metric, title, scale in _UTILITIES]
    worst = finished.worst_case
    return Spot(
        short_title(finished),
        None if worst is None else worst_rate(worst),
        attack_rates_of(finished),
        {title: _scaled(result, scale) for title, scale, result in found if result is not None},
    )


def _scaled(result: Result, scale: int) -> tuple[float, float, float]:
    low, high = result.interval or (result.value, result.value)
    return scale * result.value, scale * low, scale * high
