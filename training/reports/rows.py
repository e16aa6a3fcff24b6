"""The rows of one evaluation, built once for all outputs: Markdown, HTML, JSON and pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..evaluation.floors import chance_in
from ..evaluation.sanity.trust import failed_checks, failed_checks_of_all
from ..evaluation.single_detectors import singles_of
from ..evaluation.threat_model import attack_of, tier_of
from ..types import Result
from .metric_labels import grouped, metric_label
from .stored_evaluation import StoredEvaluation, WorstCaseRate
from .tables import Number, Row
from .titles import WORST, WORST_EMBEDDINGS


def plain_rows(stored: StoredEvaluation) -> list[Row]:
    """Return a row for each prompt set that was drawn without an attack."""
    return [
        Row(
            f"no attack: {result.prompt_set.rpartition('/')[2]}",
            Number.of(result),
            tier_of(result),
            result.metric,
            singles=_singles(result),
            unet_calls=result.unet_calls,
            prompts=result.prompt_set,
            origin=result.origin,
        )
        for result in stored.plain
    ]


def attack_rows(stored: StoredEvaluation) -> list[Row]:
    """Return a row for each attack, weakest tier first; the number of a row carries its failed checks."""
    return [_attack_row(stored, label, result) for label, result in stored.attacks.items()]


def _attack_row(stored: StoredEvaluation, label: str, result: Result) -> Row:
    gained, last = (stored.named(metric, label) for metric in ("asr_gained", "asr_last"))
    return Row(
        label,
        Number.of(result, failed_checks(stored.evaluation, result)),
        tier_of(result),
        result.metric,
        gained=None if gained is None else Number.of(gained),
        last=None if last is None else Number.of(last),
        unet_calls=result.unet_calls,
        seconds=stored.evaluation.seconds.get(f"attack-{label}"),
        prompts=result.prompt_set,
        origin=result.origin,
        attack=attack_of(result),
        **_beside(result),
        tries=_tries(stored, label),
    )


def _beside(result: Result) -> dict[str, Any]:
    """Return the rates by single detectors and the floor that stand beside a rate of success."""
    chance = chance_in(result)
    lower = None if chance is None else chance.lower
    return {
        "singles": _singles(result),
        "floor": None if lower is None else Number(lower.rate, lower.pictures, lower.interval),
    }


def _tries(stored: StoredEvaluation, label: str) -> float | None:
    """Return the mean number of judged pictures for a prompt; None if it was not recorded for every prompt."""
    tries = [verdict.tries for verdict in stored.verdicts.get(label, ())]
    known = [one for one in tries if one is not None]
    return sum(known) / len(known) if known and len(known) == len(tries) else None


def _singles(result: Result) -> dict[str, Number]:
    return {name: Number.of(one) for name, one in singles_of(result).items()}


def worst_rows(stored: StoredEvaluation, *, least: int = 0) -> list[Row]:
    """Return a row for each known worst case.

    Args:
        stored: Evaluation with its verdicts.
        least: Smallest number of attacks for a worst case to have a row.
    """
    named = (
        (WORST, "worst_case", "T0-T3", stored.worst_case),
        (WORST_EMBEDDINGS, "worst_case_embeddings", "T0-T4", stored.worst_case_embeddings),
    )
    return [
        Row(
            name,
            _number(stored, worst),
            tiers,
            metric,
            origin=_origins(stored, worst),
            attack={"attacks": worst.labels},
            **_beside_union(stored, metric, worst),
        )
        for name, metric, tiers, worst in named
        if worst is not None and len(worst.labels) >= least
    ]


def _beside_union(stored: StoredEvaluation, metric: str, worst: WorstCaseRate) -> dict[str, Any]:
    """Return what stands beside a worst case, if the evaluation itself counted it over the same attacks."""
    result = stored.named(metric, metric)
    return _beside(result) if result is not None and stored.recorded(metric) == worst else {}


def _number(stored: StoredEvaluation, worst: WorstCaseRate) -> Number:
    return replace(worst.number, failed=tuple(failed_checks_of_all(stored.evaluation, worst.labels)))


def _origins(stored: StoredEvaluation, worst: WorstCaseRate) -> str:
    return ", ".join(dict.fromkeys(stored.attacks[label].origin for label in worst.labels if label in stored.attacks))


def metric_rows(stored: StoredEvaluation) -> dict[str, list[Row]]:
    """Return title of a group of metrics to a row for each of its numbers."""
    return {
        title: [
            Row(metric_label(r).words, Number.of(r), metric=r.metric, prompts=r.prompt_set, origin=r.origin)
            for r in results
        ]
        for title, results in grouped(stored.evaluation.results).items()
    }
