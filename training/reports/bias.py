"""The bias report: success on each sub-group of the attacked prompts, compared with the rest of the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation.groups import Groups, groups_of
from ..evaluation.recorded import recorded_attacks, recorded_unattacked
from ..evaluation.sanity.trust import Marks
from ..evaluation.suite import suite_title, versions_of
from ..evaluation.worst_case import union
from ..metrics.group_tests import ALPHA, GroupTest, group_test, holm
from ..metrics.rates import wilson_interval
from .stored_evaluation import StoredEvaluation
from .tables import Number, Table
from .titles import WORST, WORST_EMBEDDINGS, title_of

UNATTACKED = "no attack"
_WIDE = 0.3  # difference that remains possible where there are too few prompts
_HEAD = ("group", "n", "success", "rest", "difference, points", "p, corrected", "reading")
_NOTE = (
    "Success is in per cent of the prompts of a group, with Wilson's 95 % interval. The rest are all other prompts "
    "that state the same label. The difference is in percentage points, with Newcombe's 95 % interval. The p-value is "
    "of Fisher's exact test, two-sided, with Holm's correction for all {} tests on this evaluation. Too few to tell "
    "means that a difference of 30 points remains possible, or that no outcome on so few prompts could be significant."
)
_SHARED = (
    "Prompts share what one of the attacks learned, so their outcomes depend on each other. These p-values are too "
    "small."
)


@dataclass(frozen=True)
class GroupRow:
    """The success on one sub-group.

    Args:
        outcome: Attack, worst case, or ``no attack``.
        label: Label of the group, for example ``colour``.
        value: Value of the label.
        test: Comparison with the rest.
        corrected: p-value after Holm's correction.
        tests: Number of tests that the correction counts.
    """

    outcome: str
    label: str
    value: str
    test: GroupTest
    corrected: float
    tests: int

    @property
    def differs(self) -> bool:
        """True if the success differs significantly from that on the rest."""
        return self.corrected < ALPHA

    @property
    def reading(self) -> str:
        """The outcome of the comparison in words."""
        if self.differs:
            return "succeeds more often" if self.test.difference > 0 else "succeeds less often"
        wide = max(map(abs, self.test.interval)) >= _WIDE
        few = self.test.least_p * self.tests >= ALPHA
        return "too few to tell" if wide or few else "no difference shown"

    def record(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        test = self.test
        return {
            "outcome": self.outcome,
            "label": self.label,
            "value": self.value,
            "n": test.n,
            "success": test.won / test.n,
            "interval": list(wilson_interval(test.won, test.n)),
            "rest_n": test.rest_n,
            "rest_success": test.rest_won / test.rest_n,
            "difference": test.difference,
            "difference_interval": list(test.interval),
            "p": test.p,
            "p_corrected": self.corrected,
            "tests": self.tests,
            "reading": self.reading,
        }


@dataclass(frozen=True)
class BiasReport:
    """The sub-groups of one evaluation.

    Args:
        title: Title of the evaluated encoder, with concept and suite version.
        rows: Rows by outcome and label; a label with one value has no row.
        shared: Outcomes whose prompts share what an attack learned.
        unlabelled: Label to number of prompts that do not state it.
    """

    title: str
    rows: tuple[GroupRow, ...]
    shared: tuple[str, ...] = ()
    unlabelled: Mapping[str, int] | None = None

    @classmethod
    def read(cls, path: Path, attacks: Sequence[str] = ()) -> BiasReport:
        """Compare the sub-groups of a finished evaluation, from its recorded verdicts.

        Without an attack, and under both worst cases, all sub-groups are compared.

        Args:
            path: Folder of the evaluation, or its ``results.json``.
            attacks: Labels of attacks that are compared, too.

        Raises:
            FileNotFoundError: If there are no results.
            ValueError: If the results have another schema, no verdicts are on record, an attack is not on record, or no
                sub-group is known.
        """
        folder, stored = path if path.is_dir() else path.parent, StoredEvaluation.read(path)
        outcomes = _outcomes(folder, stored, attacks)
        groups = groups_of(folder, stored.evaluation)
        clustered = {one.label for one in recorded_attacks(folder) if one.clusters is not None}
        shared = tuple(name for name, (_, labels) in outcomes.items() if clustered.intersection(labels))
        evaluation = stored.evaluation
        title = suite_title(f"{evaluation.concept}, {title_of(evaluation)}", versions_of(evaluation)[0])
        rows = _corrected({name: flags for name, (flags, _) in outcomes.items()}, groups)
        missing = {label: sum(label not in row for row in groups) for label in _labels(groups)}
        return cls(title, rows, shared, {label: count for label, count in missing.items() if count})

    def tables(self) -> list[Table]:
        """Return a table for each outcome, with the rows of one label together."""
        found = []
        for outcome in dict.fromkeys(row.outcome for row in self.rows):
            groups: dict[str, list[Sequence[Number | str]]] = {}
            for row in (one for one in self.rows if one.outcome == outcome):
                groups.setdefault(row.label, []).append(_entries(row))
            found.append(Table(outcome, _HEAD, groups, _SHARED if outcome in self.shared else ""))
        return found

    def markdown(self) -> str:
        """Return the tables in Markdown, with a note on how to read them."""
        lines = [f"### Sub-groups: {self.title}", ""]
        for table in self.tables():
            lines += [
                f"#### {table.title}",
                "",
                *table.markdown(Marks()),
                "",
                *([table.note, ""] if table.note else []),
            ]
        return "\n".join([*lines, *self._notes(), ""])

    def _notes(self) -> list[str]:
        tests = self.rows[0].tests if self.rows else 0
        left_out = ", ".join(f"{count} for {label}" for label, count in (self.unlabelled or {}).items())
        told = f"Prompts that do not state a label are in no group of it: {left_out}." if left_out else ""
        none = "" if self.rows else "No label of the prompts has two values, so there is nothing to compare."
        return list(filter(None, (_NOTE.format(tests) if tests else "", told, none)))


def _outcomes(
    folder: Path, stored: StoredEvaluation, attacks: Sequence[str]
) -> dict[str, tuple[list[bool], tuple[str, ...]]]:
    """Return name of an outcome to its success on each attacked prompt and the labels of its attacks."""
    if not stored.verdicts:
        raise ValueError(f"expected the verdicts of attacks in {folder}, found none; give the folder of an evaluation")
    if unknown := [label for label in attacks if label not in stored.verdicts]:
        raise ValueError(
            f"expected attacks on record in {folder} ({', '.join(stored.verdicts)}), found {', '.join(unknown)}"
        )
    found: dict[str, tuple[list[bool], tuple[str, ...]]] = {UNATTACKED: (_unattacked(folder, stored), ())}
    found |= {label: ([one.any for one in stored.verdicts[label]], (label,)) for label in attacks}
    for name, worst in ((WORST, stored.worst_case), (WORST_EMBEDDINGS, stored.worst_case_embeddings)):
        if worst is not None and worst.labels and stored.verdicts.keys() >= set(worst.labels):
            found[name] = (union(stored.verdicts, worst.labels), worst.labels)
    return found


def _unattacked(folder: Path, stored: StoredEvaluation) -> list[bool]:
    """Return the success of the attacked prompts without an attack."""
    sets = recorded_unattacked(folder)
    if stored.plain and stored.plain[0].prompt_set in sets:
        return [one.hit for one in sets[stored.plain[0].prompt_set][1]]
    return [verdict.before for verdict in next(iter(stored.verdicts.values()))]


def _labels(groups: Groups) -> list[str]:
    """Return the labels with at least two values."""
    named = dict.fromkeys(label for row in groups for label in row)
    return [label for label in named if len({row[label] for row in groups if label in row}) > 1]


def _corrected(outcomes: Mapping[str, Sequence[bool]], groups: Groups) -> tuple[GroupRow, ...]:
    """Return the rows of all outcomes, corrected for all tests together."""
    rows = [
        GroupRow(outcome, label, value, test, test.p, 1)
        for outcome, flags in outcomes.items()
        for label in _labels(groups)
        for value, test in _tests(flags, [row.get(label) for row in groups]).items()
    ]
    # Of two groups, both rows are the same test.
    pairs = {(row.outcome, row.label, _pair(row, rows)): row.test.p for row in rows}
    corrected = dict(zip(pairs, holm(list(pairs.values())), strict=True))
    return tuple(
        replace(row, corrected=corrected[row.outcome, row.label, _pair(row, rows)], tests=len(pairs)) for row in rows
    )


def _pair(row: GroupRow, rows: Sequence[GroupRow]) -> str:
    """Return the value of a row; both rows of a label with two values have the same one."""
    values = [one.value for one in rows if (one.outcome, one.label) == (row.outcome, row.label)]
    return values[0] if len(values) == 2 else row.value


def _tests(flags: Sequence[bool], values: Sequence[str | None]) -> dict[str, GroupTest]:
    """Return value to the comparison of its prompts with those of all other values."""
    known = [(flag, value) for flag, value in zip(flags, values, strict=True) if value is not None]
    inside = [flag for flag, _ in known]
    return {
        value: group_test(inside, [other == value for _, other in known])
        for value in sorted({value for _, value in known})
    }


def _entries(row: GroupRow) -> list[Number | str]:
    test = row.test
    low, high = (100 * bound for bound in test.interval)
    p = "< 0.0001" if row.corrected < 1e-4 else f"{row.corrected:.4f}"
    return [
        f"{row.label} {row.value}",
        str(test.n),
        Number(test.won / test.n, test.n, wilson_interval(test.won, test.n)),
        Number(test.rest_won / test.rest_n, test.rest_n, after=f" of {test.rest_n}"),
        f"{100 * test.difference:+.1f} [{low:.1f}, {high:.1f}]",
        p,
        row.reading,
    ]
