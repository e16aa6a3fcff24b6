"""Finished evaluations as they lie in folders: numbers, verdicts case by case, pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation.example_pictures import PICTURES_PART
from ..evaluation.results import Evaluation
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS, attack_of, by_tier, label_of, tier_of
from ..metrics.rates import wilson_interval
from ..types import Result, Verdict


@dataclass(frozen=True)
class WorstCase:
    """How many prompts fall to at least one of several attacks.

    Args:
        value: Share of the prompts.
        n: Prompts.
        interval: 95 % Wilson interval of the share; None where only the strongest single attack is known.
        labels: The attacks that were counted.
    """

    value: float
    n: int
    interval: tuple[float, float] | None
    labels: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether the union was counted prompt by prompt; otherwise the value is a lower bound."""
        return self.interval is not None

    @property
    def text(self) -> str:
        """The value with its interval, in per cent."""
        bounds = "" if self.interval is None else " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in self.interval))
        return f"{'' if self.exact else '≥ '}{100 * self.value:.1f}{bounds}"


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation with what its cells add to its numbers.

    Args:
        evaluation: The numbers.
        verdicts: Label of an attack to its verdicts, one per case; only of attacks whose cells were found.
        pictures: Value of the cell of pictures, if there is one.
    """

    evaluation: Evaluation
    verdicts: Mapping[str, tuple[Verdict, ...]] = field(default_factory=dict)
    pictures: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, path: Path, evaluation: Evaluation | None = None) -> StoredEvaluation:
        """Read an evaluation from its folder, or from its ``results.json``, and the cells beside it.

        Cells that were made for other numbers than those of the evaluation are left out.

        Args:
            path: The folder or the file.
            evaluation: Its numbers, if they have been read before.

        Raises:
            ValueError: If the results have another schema.
            FileNotFoundError: If there are none.
        """
        folder = path if path.is_dir() else path.parent
        found = evaluation or Evaluation.read(path)
        records = found.records()
        cells = [_value(file) for file in sorted((folder / "cells").glob("attack-*.json"))]
        return cls(
            found,
            {_label(value): _verdicts(value) for value in cells if all(r in records for r in value["results"])},
            _value(folder / "cells" / f"{PICTURES_PART}.json") or None,
        )

    @cached_property
    def attacks(self) -> dict[str, Result]:
        """Label of an attack to its headline rate, ``asr_any``, weakest tier first; of equal labels the strongest."""
        strongest: dict[str, Result] = {}
        for result in (r for r in self.evaluation.results if r.metric == "asr_any"):
            label = label_of(result)
            if label not in strongest or result.value > strongest[label].value:
                strongest[label] = result
        return dict(sorted(strongest.items(), key=lambda pair: by_tier(pair[1])))

    @cached_property
    def plain(self) -> tuple[Result, ...]:
        """The rates without an attack, one for each prompt set; attacks start from the first."""
        return tuple(r for r in self.evaluation.results if r.metric == "pre_asr")

    def named(self, metric: str, label: str = "") -> Result | None:
        """Return the first result of a metric, of one attack or of none."""
        found = (r for r in self.evaluation.results if r.metric == metric and label_of(r) == label)
        return next(found, None)

    def recorded(self, metric: str) -> WorstCase | None:
        """Return a worst case that the evaluation itself counted prompt by prompt, if it did."""
        found = (r for r in self.evaluation.results if r.metric == metric)
        return next((WorstCase(r.value, r.n, r.interval, tuple(attack_of(r).get("attacks", ()))) for r in found), None)

    @cached_property
    def worst_case(self) -> WorstCase | None:
        """The worst case per prompt over all attacks by text; None where nothing was attacked or drawn plainly."""
        return self.recorded("worst_case") or self._counted(TEXT_TIERS)

    @cached_property
    def worst_case_embeddings(self) -> WorstCase | None:
        """The worst case over text and free embeddings; None where no embeddings were attacked."""
        if recorded := self.recorded("worst_case_embeddings"):
            return recorded
        return self._counted(EMBEDDING_TIERS) if any(tier_of(r) == "T4" for r in self.attacks.values()) else None

    def _counted(self, tiers: Collection[str]) -> WorstCase | None:
        rates = {label: r for label, r in self.attacks.items() if tier_of(r) in tiers}
        return worst_case(rates, self.verdicts, self.plain[:1])


def worst_case(
    rates: Mapping[str, Result], verdicts: Mapping[str, tuple[Verdict, ...]], plain: tuple[Result, ...]
) -> WorstCase | None:
    """Return the union of attacks prompt by prompt, or where verdicts are missing the strongest of them.

    Args:
        rates: Label to ``asr_any`` on the same prompts.
        verdicts: Label to verdicts; may lack some.
        plain: The rate of those prompts without an attack, or nothing.
    """
    labels, singles = tuple(rates), [*plain, *rates.values()]
    if not singles:
        return None
    union = _union([verdicts[label] for label in labels if label in verdicts], labels)
    if union is not None and all(label in verdicts for label in labels):
        return union
    best = max(singles, key=lambda result: result.value)
    if union is not None and union.value > best.value:
        return replace(union, interval=None)
    return WorstCase(best.value, best.n, best.interval if len(singles) == 1 else None, labels)


def _union(verdicts: Sequence[Sequence[Verdict]], labels: tuple[str, ...]) -> WorstCase | None:
    flags = [any(verdict.any for verdict in row) for row in zip(*verdicts, strict=True)]
    return (
        WorstCase(sum(flags) / len(flags), len(flags), wilson_interval(sum(flags), len(flags)), labels)
        if flags
        else None
    )


def _value(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["value"]
    return value


def _label(value: Mapping[str, Any]) -> str:
    return str(value["results"][0]["settings"]["attack"]["label"])


def _verdicts(value: Mapping[str, Any]) -> tuple[Verdict, ...]:
    return tuple(Verdict(**verdict) for verdict in value["verdicts"])
