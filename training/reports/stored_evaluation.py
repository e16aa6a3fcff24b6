"""Stored evaluations: numbers, verdicts of each case, pictures, and the worst case that follows from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation.example_pictures import PICTURES_PART
from ..evaluation.floors import without_floor
from ..evaluation.recorded import recorded_attacks, value_of
from ..evaluation.results import CELLS, Evaluation
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS, attack_of, by_tier, label_of, tier_of
from ..evaluation.worst_case import union
from ..metrics.rates import wilson_interval
from ..types import Result, Verdict
from .tables import Number


@dataclass(frozen=True)
class WorstCaseRate:
    """The share of the prompts that fall to at least one of several attacks.

    Args:
        value: Share of the prompts, in [0, 1]; lower is more robust.
        n: Number of prompts.
        interval: 95 % Wilson interval of the share; None if the value is only a lower bound.
        labels: Labels of the counted attacks.
    """

    value: float
    n: int
    interval: tuple[float, float] | None
    labels: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """True if the union was counted prompt by prompt; otherwise the value is a lower bound."""
        return self.interval is not None

    @property
    def number(self) -> Number:
        """The value for tables, in per cent with its interval."""
        return Number(self.value, self.n, self.interval, bound=not self.exact)


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation with the verdicts and pictures in its folder.

    Args:
        evaluation: Numbers of the evaluation.
        verdicts: Label of an attack to its verdicts, one per case; attacks without stored verdicts are left out.
        pictures: Example pictures as JSON values, if there are any.
    """

    evaluation: Evaluation
    verdicts: Mapping[str, tuple[Verdict, ...]] = field(default_factory=dict)
    pictures: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, path: Path, evaluation: Evaluation | None = None) -> StoredEvaluation:
        """Read an evaluation and its parts from its folder, or from its ``results.json``.

        Parts are left out if they belong to numbers that the evaluation does not contain.

        Args:
            path: Folder of the evaluation, or its ``results.json``.
            evaluation: Numbers of the evaluation, if they have been read before.

        Raises:
            ValueError: If the results have another schema.
            FileNotFoundError: If there are no results.
        """
        folder = path if path.is_dir() else path.parent
        found = evaluation or Evaluation.read(path)
        records = [without_floor(record) for record in found.records()]
        verdicts = {
            one.label: one.verdicts for one in recorded_attacks(folder) if all(r in records for r in one.results)
        }
        return cls(found, verdicts, value_of(folder / CELLS / f"{PICTURES_PART}.json") or None)

    @cached_property
    def attacks(self) -> dict[str, Result]:
        """Label of an attack to its headline rate ``asr_any``, weakest tier first; the highest rate of equal labels."""
        strongest: dict[str, Result] = {}
        for result in (r for r in self.evaluation.results if r.metric == "asr_any"):
            label = label_of(result)
            if label not in strongest or result.value > strongest[label].value:
                strongest[label] = result
        return dict(sorted(strongest.items(), key=lambda pair: by_tier(pair[1])))

    @cached_property
    def plain(self) -> tuple[Result, ...]:
        """The rates without an attack, one for each prompt set; attacks start from the first set."""
        return tuple(r for r in self.evaluation.results if r.metric == "pre_asr")

    def named(self, metric: str, label: str = "") -> Result | None:
        """Return the first result of a metric, with the label of an attack or without an attack."""
        found = (r for r in self.evaluation.results if r.metric == metric and label_of(r) == label)
        return next(found, None)

    def recorded(self, metric: str) -> WorstCaseRate | None:
        """Return the worst case that the evaluation itself counted prompt by prompt; None without one."""
        result = next((r for r in self.evaluation.results if r.metric == metric), None)
        if result is None:
            return None
        return WorstCaseRate(result.value, result.n, result.interval, tuple(attack_of(result).get("attacks", ())))

    @cached_property
    def worst_case(self) -> WorstCaseRate | None:
        """The worst case per prompt over all attacks by text; None without any rate of success."""
        return worst_case_by_text([("", self)])

    @cached_property
    def worst_case_embeddings(self) -> WorstCaseRate | None:
        """The worst case per prompt over text and free embeddings; None without an attack by embeddings."""
        return worst_case_with_embeddings([("", self)])


# Evaluations of one encoder on the same prompts, each with the folder it is read from.
Sources = Sequence[tuple[str, StoredEvaluation]]


def worst_case_by_text(sources: Sources) -> WorstCaseRate | None:
    """Return the worst case over all attacks by text on an encoder; None without any rate of success.

    Args:
        sources: Evaluations of the encoder on the same prompts.
    """
    return _worst_case(sources, "worst_case", TEXT_TIERS)


def worst_case_with_embeddings(sources: Sources) -> WorstCaseRate | None:
    """Return the worst case over text and free embeddings; None without an attack by embeddings.

    Args:
        sources: Evaluations of the encoder on the same prompts.
    """
    metric = "worst_case_embeddings"
    attacked = any(tier_of(result) == "T4" for _, stored in sources for result in stored.attacks.values())
    known = attacked or any(stored.recorded(metric) for _, stored in sources)
    return _worst_case(sources, metric, EMBEDDING_TIERS) if known else None


def _worst_case(sources: Sources, metric: str, tiers: Collection[str]) -> WorstCaseRate | None:
    rates, verdicts = _different_attacks(sources, tiers)
    recorded = [(stored, worst) for _, stored in sources if (worst := stored.recorded(metric)) is not None]
    for stored, worst in recorded:
        if all(result in stored.attacks.values() for result in rates.values()):
            return worst  # no other evaluation has a further attack
    counted = _counted(rates, verdicts, [result for _, stored in sources for result in stored.plain[:1]])
    if counted is not None and counted.exact and set(counted.labels) == set(rates):
        return counted
    # Some verdicts are missing, so the union is not known. It is at least the largest known rate.
    known = [*(worst for _, worst in recorded), *([counted] if counted is not None else [])]
    best = max(known, key=lambda worst: worst.value, default=None)
    return None if best is None else replace(best, interval=best.interval if not recorded else None)


def _different_attacks(
    sources: Sources, tiers: Collection[str]
) -> tuple[dict[str, Result], dict[str, tuple[Verdict, ...]]]:
    """Return all different attacks of these tiers, each under a unique name, and their known verdicts."""
    rates: dict[str, Result] = {}
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    # Evaluations with verdicts come first: a manifest may hold the same numbers without verdicts.
    for source, stored in sorted(sources, key=lambda pair: not pair[1].verdicts):
        for label, result in stored.attacks.items():
            if tier_of(result) in tiers and result not in rates.values():
                name = label if label not in rates else f"{label} ({source})"
                rates[name] = result
                if label in stored.verdicts:
                    verdicts[name] = stored.verdicts[label]
    return rates, verdicts


def _counted(
    rates: Mapping[str, Result], verdicts: Mapping[str, Sequence[Verdict]], plain: Sequence[Result]
) -> WorstCaseRate | None:
    """Return the union of attacks prompt by prompt, or a lower bound if verdicts are missing."""
    singles, labels = [*plain, *rates.values()], tuple(rates)
    if not singles:
        return None
    flags = union(verdicts, [label for label in labels if label in verdicts])
    best = max(singles, key=lambda result: result.value)
    alone = WorstCaseRate(best.value, best.n, best.interval if len(singles) == 1 else None, labels)
    if not flags:
        return alone
    won, n = sum(flags), len(flags)
    joined = WorstCaseRate(won / n, n, wilson_interval(won, n), labels)
    if all(label in verdicts for label in labels):
        return joined
    return replace(joined, interval=None) if joined.value > best.value else alone
