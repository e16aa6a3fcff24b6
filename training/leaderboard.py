"""One table of many evaluations: measured apart from reported, and ranked only where the numbers can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .cells import canonical_sha256
from .charts import attack_title, short_title
from .claims import Row, claims_of, percent, rows_of
from .drawing import Draw
from .figures import Rank, Rate, ranking
from .report import cell, markdown


@dataclass(frozen=True)
class Leaderboard:
    """Rows, and what may be said about their order.

    Args:
        rows: As ``rows_of`` returns them.
    """

    rows: tuple[Row, ...]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Leaderboard:
        """Read evaluations and artifacts.

        Raises:
            FileNotFoundError: If a folder is neither.
            ValueError: If there is none, or one holds no rate of success.
        """
        if not folders:
            raise ValueError("expected at least one folder, found none")
        return cls(tuple(rows_of(claim for folder in folders for claim in claims_of(folder))))

    @cached_property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Letter to conditions; ranks count only within a letter."""
        unique = {canonical_sha256(row.group): row.group for row in self.rows}
        return {_letter(i): group for i, group in enumerate(unique.values())}

    def letter(self, row: Row) -> str:
        """Return the letter of a row's conditions."""
        return next(letter for letter, group in self.groups.items() if group == row.group)

    def rank(self, row: Row) -> int:
        """Return a row's place within its letter: 1 is the lowest worst case, and equal values share a place."""
        peers = [other for other in self.rows if self.letter(other) == self.letter(row)]
        return 1 + sum(_value(other) < _value(row) for other in peers)

    def table(self) -> str:
        """Return Markdown: measured, then reported, then the conditions and what was replaced."""
        lines: list[str] = []
        for origin, title in (("measured", "Measured"), ("reported", "Reported by others, not measured here")):
            rows = [row for row in self.rows if row.origin == origin]
            lines += [f"### {title}", "", *self._markdown(rows), ""] if rows else []
        lines += ["Ranked by the worst case: the share of prompts that fall to at least one attack by text; ≥ where"]
        lines += [
            "only the strongest single attack is known. Ranks compare numbers under one letter only; letters differ in"
        ]
        lines += ["concept, detector, threshold, prompts, sampling or budget of the attacks.", "", *self._legend()]
        replaced = [line for row in self.rows for line in row.replaced()]
        return "\n".join([*lines, *(["", "Replaced by a stronger attack:", *_bullets(replaced)] if replaced else [])])

    def _markdown(self, rows: Sequence[Row]) -> list[str]:
        labels = list(dict.fromkeys(label for row in rows for label in row.attacks))
        titles = {label: attack_title(row.attacks[label][0]) for row in rows for label in row.attacks}
        head = [
            "rank",
            "conditions",
            "concept",
            "encoder",
            "worst case",
            *(titles[label] for label in labels),
            "retain",
        ]
        return markdown([*head, "CLIP score", "source"], [self._cells(row, labels) for row in rows])

    def _cells(self, row: Row, labels: Sequence[str]) -> list[str]:
        finished = row.claims[0].finished
        attacks = [cell(row.attacks[label][0] if label in row.attacks else None) for label in labels]
        utility = [cell(finished.named("retain_all")), cell(finished.named("clip_score"))]
        lead = [str(self.rank(row)), self.letter(row), finished.evaluation.concept, short_title(finished)]
        sources = ", ".join(dict.fromkeys(claim.source for claim in row.claims))
        return [text.replace("|", "\\|") for text in (*lead, percent(row.worst), *attacks, *utility, sources)]

    def _legend(self) -> list[str]:
        """Return one line for each letter and each budget: all that is common to its rows."""
        budgets = list(
            {canonical_sha256(group["attacks"]): group["attacks"] for group in self.groups.values()}.values()
        )
        lines = []
        for letter, group in self.groups.items():
            said = "; ".join(f"{key} {group[key]}" for key in ("detector", "prompts", "sampling", "worst case"))
            lines.append(f"{letter}: {said}; budget {budgets.index(group['attacks']) + 1}")
        for i, attacks in enumerate(budgets):
            lines.append(f"budget {i + 1}: {'; '.join(map(_settings, attacks.values())) or 'no attacks'}")
        return _bullets(lines)

    def to_json(self) -> str:
        """Return the same as JSON: rows, conditions, and what was replaced."""
        rows = [self._record(row) for row in self.rows]
        return json.dumps({"rows": rows, "conditions": self.groups}, indent=1, ensure_ascii=False)

    def _record(self, row: Row) -> dict[str, Any]:
        attacks = {
            label: {"value": result.value, "interval": result.interval, "n": result.n, "source": claim.source}
            for label, (result, claim) in row.attacks.items()
        }
        return {
            "rank": self.rank(row),
            "conditions": self.letter(row),
            "origin": row.origin,
            "concept": row.claims[0].conditions["concept"],
            "encoder": short_title(row.claims[0].finished),
            "worst_case": None if row.worst is None else {**vars(row.worst), "exact": row.worst.exact},
            "attacks": attacks,
            "sources": [claim.source for claim in row.claims],
            "replaced": row.replaced(),
        }

    def figure(self) -> Draw:
        """Return what draws the same rows in the same order."""
        return ranking([self._rank(row) for row in self.rows if row.worst is not None])

    def _rank(self, row: Row) -> Rank:
        first = row.claims[0].finished
        rates = tuple(Rate(attack_title(r), r.value, r.interval) for r, _ in row.attacks.values())
        worst = Rate("", _value(row), None if row.worst is None else row.worst.interval)
        label = f"{self.letter(row)}  {first.evaluation.concept}, {short_title(first)}"
        return Rank(label, worst, rates, reported=row.origin == "reported")


def _letter(place: int) -> str:
    """Return A to Z, then A1 and so on."""
    return f"{chr(ord('A') + place % 26)}{place // 26 or ''}"


def _value(row: Row) -> float:
    return math.inf if row.worst is None else row.worst.value


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def _settings(attack: Mapping[str, Any]) -> str:
    named = ", ".join(f"{key} {value}" for key, value in attack.items() if key not in ("label", "tier", "name"))
    return f"{attack.get('label', 'attack')}: {attack.get('name', 'unknown')} {named}".rstrip()
