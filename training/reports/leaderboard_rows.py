"""The rows of a leaderboard: an encoder, the numbers of all folders about it, and the strongest attack of each tier."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..evaluation.sanity.trust import failed_checks_of_all
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS
from ..provenance import canonical_sha256
from .row_sources import RowSource, base_of
from .rows import attack_rows
from .stored_evaluation import StoredEvaluation, WorstCaseRate, worst_case_by_text, worst_case_with_embeddings
from .tables import Number, Row
from .titles import short_title


@dataclass(frozen=True)
class LeaderboardRow:
    """One encoder under one set of conditions, with the strongest attacks of all folders.

    Args:
        sources: Numbers about this encoder on these prompts; the first source names the row.
    """

    sources: tuple[RowSource, ...]

    @property
    def origin(self) -> str:
        """``measured`` or ``reported``."""
        return self.sources[0].origin

    @property
    def version(self) -> int | None:
        """Suite version of the numbers; None for numbers that others reported."""
        return self.sources[0].version

    @property
    def concept(self) -> str:
        """Name of the erased concept."""
        return self.sources[0].stored.evaluation.concept

    @property
    def encoder(self) -> str:
        """The encoder in words, with its seed."""
        return short_title(self.sources[0].stored.evaluation)

    @cached_property
    def attacks(self) -> dict[str, tuple[Row, RowSource]]:
        """Label of an attack to the row of its highest rate, with the source of that row."""
        strongest: dict[str, tuple[Row, RowSource]] = {}
        for source in self.sources:
            for row in attack_rows(source.stored):
                if row.label not in strongest or row.number.value > strongest[row.label][0].number.value:
                    strongest[row.label] = (row, source)
        return strongest

    @cached_property
    def worst(self) -> WorstCaseRate | None:
        """The worst case over all attacks by text of any source; encoders are ranked by it."""
        return worst_case_by_text(self._evaluations)

    @cached_property
    def worst_embeddings(self) -> WorstCaseRate | None:
        """The worst case over text and free embeddings; None without an attack by embeddings."""
        return worst_case_with_embeddings(self._evaluations)

    @property
    def _evaluations(self) -> list[tuple[str, StoredEvaluation]]:
        return [(source.folder, source.stored) for source in self.sources]

    @property
    def numbers(self) -> tuple[Number | None, Number | None]:
        """Both worst cases for tables, by text and with embeddings.

        They are marked if the attacks with gradients of no source are to be trusted.
        """
        return self._marked(self.worst, TEXT_TIERS), self._marked(self.worst_embeddings, EMBEDDING_TIERS)

    def _marked(self, worst: WorstCaseRate | None, tiers: Collection[str]) -> Number | None:
        if worst is None:
            return None
        found = []
        for source in self.sources:
            labels = [row.label for row in attack_rows(source.stored) if row.tier in tiers]
            found.append(failed_checks_of_all(source.stored.evaluation, labels))
        return replace(worst.number, failed=tuple(check for checks in found for check in checks) if all(found) else ())

    def strongest(self, tier: str) -> Row | None:
        """Return the strongest attack of a tier."""
        found = [row for row, _ in self.attacks.values() if row.tier == tier]
        return max(found, key=lambda row: row.number.value, default=None)

    @cached_property
    def budget(self) -> dict[str, Any]:
        """Label to settings of each attack that a worst case counts."""
        rows = {label: row for label, (row, _) in sorted(self.attacks.items())}
        return {label: dict(row.attack) for label, row in rows.items() if row.tier in EMBEDDING_TIERS}

    @property
    def group(self) -> dict[str, Any]:
        """The conditions that must be equal before two rows may be ranked against each other."""
        # A lower bound must not be ranked against an exact number.
        counted = "lower bound" if self.worst is not None and not self.worst.exact else "prompt by prompt"
        bases = [base for source in self.sources if (base := base_of(source.stored.evaluation))]
        known = {"base": bases[0][:12]} if bases else {}
        about = {"origin": self.origin, **self.sources[0].conditions, **known}
        return {**about, "worst case": counted, "attacks": self.budget}

    def replaced(self) -> list[str]:
        """Return a line for each weaker number that a stronger attack has replaced."""
        lines = []
        for source in self.sources:
            own = source.stored.worst_case
            if own is not None and self.worst is not None and own.value < self.worst.value:
                title = short_title(source.stored.evaluation)
                said = f"{title}: {own.number.text} by {source.folder}"
                lines.append(f"{said} is replaced by {self.worst.number.text}")
        return lines

    def reported_stronger(self, others: Iterable[LeaderboardRow]) -> list[str]:
        """Return a line for each reported worst case that exceeds the measured one on the same encoder and prompts.

        Args:
            others: Rows to compare with; only reported rows count, and a reported row has no such lines.
        """
        if self.origin != "measured":
            return []
        return [line for other in others if self._same(other) for line in self._above(other)]

    def _same(self, other: LeaderboardRow) -> bool:
        mine, theirs = self.sources[0], other.sources[0]
        known = all(mine.prompts)  # unknown prompts are never the same
        return other.origin == "reported" and known and (mine.encoder, mine.prompts) == (theirs.encoder, theirs.prompts)

    def _above(self, other: LeaderboardRow) -> list[str]:
        mine, theirs = self.sources[0].conditions["detector"], other.sources[0].conditions["detector"]
        judged = "" if mine == theirs else f", judged by {theirs}"
        pairs = (("T0-T3", self.worst, other.worst), ("T0-T4", self.worst_embeddings, other.worst_embeddings))
        return [
            f"{self.encoder}, {tiers}: {own.number.text} measured; reported stronger: {said.number.text} by "
            f"{other.sources[0].folder}{judged}"
            for tiers, own, said in pairs
            if own is not None and said is not None and said.value > own.value
        ]


def rows_of(sources: Iterable[RowSource]) -> list[LeaderboardRow]:
    """Return one row for each encoder, origin and conditions, the lowest worst case first.

    Rows that may be ranked against each other stand together.
    """
    merged: dict[str, list[RowSource]] = {}
    for source in sources:
        merged.setdefault(canonical_sha256([source.origin, source.encoder, source.conditions]), []).append(source)
    rows = [LeaderboardRow(tuple(found)) for found in merged.values()]
    return sorted(rows, key=_order)


def _order(row: LeaderboardRow) -> tuple[Any, ...]:
    value = math.inf if row.worst is None else row.worst.value
    conditions = row.sources[0].conditions
    return row.origin, conditions["concept"], canonical_sha256(row.group), value, row.sources[0].folder
