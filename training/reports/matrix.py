"""The tables of whole suites: a row for each attack, a column for each encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..evaluation.results import Evaluation
from ..evaluation.sanity.trust import Marks
from ..evaluation.suite import by_version
from ..evaluation.threat_model import LIMITS, SCOPE
from .metric_labels import GROUPS, grouped, metric_label
from .results_table import by_concept, judge_line, results_table, sizes
from .rows import attack_rows, metric_rows, plain_rows, worst_rows
from .stored_evaluation import StoredEvaluation
from .tables import MISSING, Entry, Row, Table
from .titles import WORST, WORST_EMBEDDINGS, title_of

Columns = Sequence[Sequence[Row]]  # the rows of each evaluation

_COSTS = (
    "Each entry is gained / n / UNet calls / seconds. Gained is the share of the prompts, in per cent, that only the "
    "attack won, beyond `none`. Seconds depend on the machine."
)
_ALONE = "A success above is what all detectors find. Here each of them judges alone, in per cent of the same prompts."
_UTILITY = "FID, KID and LPIPS are distances to the base's own pictures. For kept prompts, lower is better."
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def tables(found: Sequence[Evaluation | Path]) -> str:
    """Return Markdown of any evaluations: the matrix if one has a worst case, else ``results_table``.

    Each suite version has tables of its own, the newest first.

    Args:
        found: Evaluations, or the ``results.json`` files or folders to read them from.

    Raises:
        ValueError: If there are no evaluations.
    """
    read = [one if isinstance(one, Evaluation) else Evaluation.read(one) for one in found]
    return "\n".join(map(_of_one_version, by_version(read).values())) if read else results_table(read)


def _of_one_version(evaluations: Sequence[Evaluation]) -> str:
    joined = any(result.metric == "worst_case" for one in evaluations for result in one.results)
    return matrix_table(evaluations) if joined else results_table(evaluations)


def matrix_table(evaluations: Sequence[Evaluation]) -> str:
    """Return Markdown tables for each suite version and concept: rates under attack, costs of attacks, and utility.

    Rows are in the order of the threat tiers. The worst cases stand below the attacks that they count. Limits of scope
    have a table of their own. A number whose attack failed a check has a mark, and a footnote gives the reason.

    Args:
        evaluations: Evaluations, in the order of the columns.

    Raises:
        ValueError: If there are no evaluations.
    """
    if not evaluations:
        raise ValueError("expected at least one evaluation, found none: name a folder with results.json")
    return "\n".join(_concept(title, rows) for title, rows in by_concept(evaluations).items())


def _concept(title: str, evaluations: Sequence[Evaluation]) -> str:
    marks = Marks()
    ranked, *others = _tables(evaluations)
    parts = [
        [f"### {title}"],
        ranked.markdown(marks),
        [*filter(None, (sizes(evaluations), judge_line(evaluations)))],
        *(part for table in others if table.groups[""] for part in _titled(table, marks)),
        [f"- {line}" for line in marks.notes()],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _titled(table: Table, marks: Marks) -> list[list[str]]:
    return [[f"#### {table.title}"], [table.note], table.markdown(marks)]


def _tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return the tables of one concept: rates that rank encoders, limits of scope, costs, and utility."""
    stored = [StoredEvaluation(one) for one in evaluations]
    titles = [title_of(one) for one in evaluations]
    plain, attacks, worst = ([of(one) for one in stored] for of in (plain_rows, attack_rows, worst_rows))
    ranked = [*_side_by_side(plain, _rate), *_side_by_side(_only(attacks, limits=False), _rate)]
    head, lines = ["tier", "attack", *titles], [*sorted(ranked, key=lambda line: str(line[0])), *_worst_lines(worst)]
    limits = _side_by_side(_only(attacks, limits=True), _rate)
    every = [[*one, *other] for one, other in zip(plain, attacks, strict=True)]
    return [
        Table("Success", head, {"": lines}),
        Table("Limits of scope", head, {"": limits}, SCOPE),
        Table(
            "Single detectors", head, {"": [line for line in _side_by_side(every, _singles) if any(line[2:])]}, _ALONE
        ),
        Table("Gain and cost of the attacks", head, {"": _side_by_side(attacks, _cost)}, _COSTS),
        Table("Utility", ["metric", *titles], {"": _utility_lines(stored)}, _UTILITY),
    ]


def _only(attacks: Columns, *, limits: bool) -> Columns:
    return [[row for row in rows if (row.tier in LIMITS) is limits] for rows in attacks]


def _side_by_side(columns: Columns, entry: Callable[[Row], Entry]) -> list[list[Entry]]:
    """Return a line for each label, weakest tier first: tier, label, and an entry for each evaluation."""
    rows = sorted((row for rows in columns for row in rows), key=lambda row: (not row.tier, row.tier))
    tiers = {row.label: row.tier for row in rows}
    return [[tier, label, *_entries(columns, label, entry)] for label, tier in tiers.items()]


def _entries(columns: Columns, label: str, entry: Callable[[Row], Entry]) -> list[Entry]:
    found = (next((row for row in rows if row.label == label), None) for rows in columns)
    return [None if row is None else entry(row) for row in found]


def _rate(row: Row) -> Entry:
    return row.number


def _singles(row: Row) -> Entry:
    return "; ".join(f"{name} {number.text}" for name, number in row.singles.items()) or None


def _worst_lines(columns: Columns) -> list[list[Entry]]:
    """Return a line for each of both worst cases, even if no evaluation has one."""
    named = (("T0-T3", WORST), ("T0-T4", WORST_EMBEDDINGS))
    return [[tiers, name, *_entries(columns, name, _rate)] for tiers, name in named]


def _cost(row: Row) -> Entry:
    spent = MISSING if row.seconds is None else f"{row.seconds:,.0f}"
    won = MISSING if row.gained is None else row.gained.bare
    return f"{won} / {row.number.n} / {short(row.unet_calls or 0)} / {spent}"


def short(value: float) -> str:
    """Return a large number with three digits, ``1.23M``."""
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def _utility_lines(stored: Sequence[StoredEvaluation]) -> list[list[Entry]]:
    """Return a line for each metric of any evaluation, except the judge's own accuracy."""
    found = grouped(result for one in stored for result in one.evaluation.results)
    words = {r.metric: metric_label(r).words for title, rs in found.items() if title != GROUPS["control"] for r in rs}
    # A metric has one name for all evaluations, although only some may record the detector that judged it.
    columns = [
        [replace(row, label=words.get(row.metric, row.label)) for rows in metric_rows(one).values() for row in rows]
        for one in stored
    ]
    return [[label, *_entries(columns, label, _rate)] for label in words.values()]
