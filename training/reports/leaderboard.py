"""One table of many evaluations, with reported numbers apart, and with ranks only among comparable numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation.sanity.trust import Marks
from ..evaluation.suite import SUITE_KEY, suite_title
from ..evaluation.threat_model import EMBEDDING_TIERS, TIERS
from ..provenance import canonical_sha256
from .leaderboard_rows import LeaderboardRow, rows_of
from .plots.figures import Rate
from .plots.ranking import Rank, ranking
from .plots.style import Draw
from .row_sources import RowSource, row_sources_of
from .tables import MISSING, Entry, Number, Row, Table
from .titles import settings_line

_REPORTED = "Reported by others, not measured here"
_LEGEND = (
    "Encoders are ranked by the worst case over T0 to T3: the share of prompts, in per cent, that fall to at least one",
    "attack by text; lower is better. The sign ≥ marks a lower bound: only the strongest single attack is known.",
    "The next column adds T4, free embeddings. Attacks of T5 to T7 bypass a text encoder and do not count in the",
    "ranking. Each tier shows its strongest attack. Ranks compare only numbers under the same letter. Letters differ",
    "in concept, detector, threshold, prompts, sampling or budget of the attacks.",
)


@dataclass(frozen=True)
class Leaderboard:
    """The rows of a leaderboard with their ranks.

    Args:
        rows: Rows in the order of ``rows_of``.
    """

    rows: tuple[LeaderboardRow, ...]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Leaderboard:
        """Read evaluations and artifacts.

        Raises:
            FileNotFoundError: If a folder is neither an evaluation nor an artifact.
            ValueError: If there are no folders, or a folder holds no rate of success.
        """
        if not folders:
            raise ValueError("expected at least one folder, found none: name evaluations or artifacts")
        return cls(tuple(rows_of(source for folder in folders for source in row_sources_of(folder))))

    @cached_property
    def versions(self) -> list[int]:
        """Suite versions of the measured rows, the newest first; each has a table of its own."""
        return sorted({row.version for row in self.rows if row.version is not None}, reverse=True)

    @cached_property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Letter to conditions; ranks are valid only within a letter."""
        unique = {canonical_sha256(row.group): row.group for row in self.rows}
        return {_letter(i): group for i, group in enumerate(unique.values())}

    def letter(self, row: LeaderboardRow) -> str:
        """Return the letter of a row's conditions."""
        return next(letter for letter, group in self.groups.items() if group == row.group)

    def rank(self, row: LeaderboardRow) -> int:
        """Return a row's place within its letter: 1 is the lowest worst case, and equal values share a place."""
        peers = [other for other in self.rows if self.letter(other) == self.letter(row)]
        return 1 + sum(_value(other) < _value(row) for other in peers)

    def table(self) -> str:
        """Return Markdown: measured rows by suite version, reported rows, conditions, and replaced numbers."""
        lines: list[str] = []
        marks = Marks()
        for version, title in [*((v, suite_title("Measured", v)) for v in self.versions), (None, _REPORTED)]:
            rows = [row for row in self.rows if row.version == version]
            lines += [f"### {title}", "", *self._markdown(rows, marks), ""] if rows else []
        lines += [*_LEGEND, *self._pictured(), "", *self._legend()]
        lines += ["", "Not trusted:", *_bullets(marks.notes())] if marks.sentences else []
        replaced = [line for row in self.rows for line in (*row.replaced(), *row.reported_stronger(self.rows))]
        return "\n".join([*lines, *(["", "Replaced by a stronger attack:", *_bullets(replaced)] if replaced else [])])

    def _markdown(self, rows: Sequence[LeaderboardRow], marks: Marks) -> list[str]:
        # A reported number may have an attack without a tier; it is shown all the same.
        tiers = [tier for tier in (*TIERS, "") if any(row.strongest(tier) for row in rows)]
        titles = [tier if tier in EMBEDDING_TIERS else f"{tier or 'no tier known'}, not ranked" for tier in tiers]
        head = ["rank", "conditions", "concept", "encoder", "worst case T0-T3", "worst case T0-T4", *titles]
        lines = [[_escaped(entry) for entry in self._entries(row, tiers)] for row in rows]
        return Table("Leaderboard", [*head, "retain", "CLIP score", "source"], {"": lines}).markdown(marks)

    def _entries(self, row: LeaderboardRow, tiers: Sequence[str]) -> list[Entry]:
        lead = [str(self.rank(row)), self.letter(row), row.concept, row.encoder]
        by_text, with_embeddings = row.numbers
        worst: Entry = by_text
        if row.reported_stronger(self.rows):
            after = ", reported stronger"
            worst = f"{MISSING}{after}" if by_text is None else replace(by_text, after=after)
        attacks = [_labelled(row.strongest(tier)) for tier in tiers]
        named = map(row.sources[0].stored.named, ("retain_all", "clip_score"))
        doubts = [
            one for one in row.sources[0].stored.evaluation.checks if one["name"] == "recorded" and not one["attack"]
        ]
        utility = [None if result is None else Number.of(result, doubts) for result in named]
        sources = ", ".join(dict.fromkeys(source.folder for source in row.sources))
        return [*lead, worst, with_embeddings, *attacks, *utility, sources]

    def _legend(self) -> list[str]:
        """Return one line for each letter and each budget with everything that its rows share."""
        budgets = list(
            {canonical_sha256(group["attacks"]): group["attacks"] for group in self.groups.values()}.values()
        )
        lines = []
        for letter, group in self.groups.items():
            said = "; ".join(f"{key} {group[key]}" for key in ("detector", "prompts", "sampling", "worst case"))
            lines.append(f"{letter}: {said}; budget {budgets.index(group['attacks']) + 1}")
        for i, attacks in enumerate(budgets):
            lines.append(f"budget {i + 1}: {'; '.join(map(_attack_line, attacks.values())) or 'no attacks'}")
        return _bullets(lines)

    def to_json(self) -> str:
        """Return the leaderboard as JSON: rows, conditions, and replaced numbers."""
        rows = [self._record(row) for row in self.rows]
        return json.dumps({"rows": rows, "conditions": self.groups}, indent=1, ensure_ascii=False)

    def _record(self, row: LeaderboardRow) -> dict[str, Any]:
        named = (("worst_case", row.worst), ("worst_case_embeddings", row.worst_embeddings))
        return {
            "rank": self.rank(row),
            "conditions": self.letter(row),
            "origin": row.origin,
            SUITE_KEY: row.version,
            "concept": row.concept,
            "encoder": row.encoder,
            **{name: None if worst is None else {**vars(worst), "exact": worst.exact} for name, worst in named},
            "attacks": {label: _attack_record(attack, source) for label, (attack, source) in row.attacks.items()},
            "sources": [source.folder for source in row.sources],
            "replaced": row.replaced(),
            "reported_stronger": row.reported_stronger(self.rows),
            "checks": [dict(check) for source in row.sources for check in source.stored.evaluation.checks],
        }

    def figure(self) -> Draw:
        """Return a drawing function for the rows of the newest suite version and for reported rows, in their order."""
        shown = (None, *self.versions[:1])
        return ranking([self._rank(row) for row in self.rows if row.worst is not None and row.version in shown])

    def _pictured(self) -> list[str]:
        """Return a line about the picture if there are several suite versions."""
        if len(self.versions) < 2:
            return []
        return [f"Suite versions are never ranked against each other; the picture shows version {self.versions[0]}."]

    def _rank(self, row: LeaderboardRow) -> Rank:
        found = [(tier, row.strongest(tier)) for tier in EMBEDDING_TIERS]
        rates = tuple(
            Rate(f"strongest of {tier}", one.number.value, marked=bool(one.number.failed))
            for tier, one in found
            if one is not None
        )
        number, _ = row.numbers
        interval = None if row.worst is None else row.worst.interval
        worst = Rate("", _value(row), interval, marked=number is not None and bool(number.failed))
        label = f"{self.letter(row)}  {row.concept}, {row.encoder}"
        return Rank(label, worst, rates, reported=row.origin == "reported")


def _labelled(row: Row | None) -> Number | None:
    """Return the rate of an attack after its label, without an interval."""
    return None if row is None else replace(row.number, before=row.label, interval=None)


def _escaped(entry: Entry) -> Entry:
    """Return an entry with its column separators escaped."""
    if isinstance(entry, Number):
        return replace(entry, before=entry.before.replace("|", "\\|"))
    return None if entry is None else entry.replace("|", "\\|")


def _attack_record(row: Row, source: RowSource) -> dict[str, Any]:
    number = row.number
    rate = {"value": number.value, "interval": number.interval, "n": number.n, "tier": row.tier}
    return {**rate, "source": source.folder, "not_trusted": [check["name"] for check in number.failed]}


def _letter(place: int) -> str:
    """Return A to Z, then A1 and so on."""
    return f"{chr(ord('A') + place % 26)}{place // 26 or ''}"


def _value(row: LeaderboardRow) -> float:
    return math.inf if row.worst is None else row.worst.value


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def _attack_line(attack: Mapping[str, Any]) -> str:
    return f"{attack.get('label', 'attack')}: {settings_line({'name': 'unknown', **attack, 'tier': ''})}"
