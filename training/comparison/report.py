"""The report of a comparison: JSON, Markdown and one page of HTML, from the rows that are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import write_atomically

from ..evaluation.sanity.trust import Marks
from ..evaluation.suite import SUITE_KEY, SUITE_VERSION, suite_title
from ..provenance import judging_versions, write_json
from ..reports.bias import BiasReport
from ..reports.evaluation_tables import count
from ..reports.html.overview import overview
from ..reports.matrix import tables
from ..reports.metric_labels import is_no_success_rate
from ..reports.plots.data import spot_of
from ..reports.plots.figures import trade_off
from ..reports.rows import attack_rows, plain_rows, worst_rows
from ..reports.stored_evaluation import StoredEvaluation
from ..reports.tables import Entry, Number, Row, Table
from ..reports.titles import WORST, WORST_EMBEDDINGS, title_of
from .record import BASE_ROW, ComparisonRecord, RowRecord
from .run import Measured

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "report.json", "report.md", "report.html"
SCHEMA = 1
_SUCCESS = (
    "Success of the attacks in per cent of the prompts, with 95 % intervals; lower is more robust. A floor is what as "
    "many pictures of the empty prompt and of open captions win without an attack, by encoder or base, whichever is "
    "lower."
)
_KEPT = "Prompts without the concept. CLIP score: higher is better. FID to the base's own pictures: lower is better."
_COSTS = (
    "Seconds and UNet calls are of the training loop or of the solution in closed form, without the bank of "
    "trajectories, which rows share. One call is one forward on one latent. Seconds depend on the machine and its load."
)
_GROUPS = "Sub-groups of the prompts whose success differs significantly from that of the rest, by Fisher's exact test."
_KEPT_METRICS = ("retain_all", "everyday_difference", "clip_score", "fid")


class ComparisonReport:
    """The report of the rows of a comparison.

    Args:
        record: State of all rows.
        measured: Name of a row to its numbers.
        left_out: Methods of this package without a recipe for the concept.
    """

    def __init__(
        self, record: ComparisonRecord, measured: Mapping[str, Measured], left_out: Sequence[str] = ()
    ) -> None:
        self.record = record
        self.left_out = left_out
        self.rows = [
            (row, measured[slug])
            for slug, row in record.rows.items()
            if slug in measured and row.status in ("finished", "reused")
        ]

    @property
    def title(self) -> str:
        """Title of the report: concept, base and suite version."""
        about = self.record.about
        return suite_title(f"Methods on {about['concept']}, base {about['base']}", SUITE_VERSION)

    def write(self, *, page: bool = False) -> None:
        """Write JSON and Markdown, and the page if it is wanted, each completely or not at all.

        Args:
            page: True for the page of HTML, too, which takes seconds.
        """
        folder = self.record.folder
        write_json(folder / JSON_NAME, self.to_json())
        write_atomically(folder / MARKDOWN_NAME, self.markdown().encode())
        if page:
            write_atomically(folder / HTML_NAME, self.html().encode())

    def tables(self) -> list[Table]:
        """Return the tables with one row for each method and seed: success, what is kept, costs, sub-groups."""
        found = [self._success(), self._kept(), self._costs(), self._groups()]
        return [table for table in found if table.groups[""]]

    def summary(self) -> str:
        """Return the tables with one row for each method, and what is missing, in Markdown."""
        marks = Marks()
        parts = [f"# {self.title}", ""]
        for table in self.tables():
            parts += [f"## {table.title}", "", *table.markdown(marks), "", table.note, ""]
        parts += [*(f"- {line}" for line in (*marks.notes(), *self.notes())), ""]
        return "\n".join(parts)

    def markdown(self) -> str:
        """Return the whole report: the summary, then all attacks and metrics, a column for each method."""
        whole = tables([one.stored.evaluation for _, one in self.rows]) if self.rows else ""
        return "\n".join(filter(None, (self.summary(), "## All numbers\n" if whole else "", whole)))

    def notes(self) -> list[str]:
        """Return one line for each row that failed, waits or is special, and for the methods that are left out."""
        lines = []
        for row in self.record.rows.values():
            if row.status == "failed":
                lines.append(f"{row.slug} failed in its {row.problem}")
            elif row.status == "waiting":
                lines.append(f"{row.slug} is left out: {row.note}" if row.note else f"{row.slug} has not run yet")
            elif row.status == "reused":
                lines.append(f"{row.slug}: numbers of {row.source}{f' ({row.note})' if row.note else ''}")
            elif row.note:
                lines.append(f"{row.slug}: {row.note}")
            if not row.registered:
                lines.append(f"{row.slug} has no recipe for this concept; it has the standard settings of its method")
        if self.left_out:
            lines.append(f"left out, without a recipe for this concept: {', '.join(self.left_out)}")
        return lines

    def html(self) -> str:
        """Return the page: the tables, robustness against utility, and links to the page of each row."""
        draws = {"trade-off": trade_off([spot_of(one.stored) for _, one in self.rows])} if self._has_utility() else {}
        pages = {row.slug: f"{row.slug}/report.html" for row, _ in self.rows if row.status == "finished"}
        return overview(self.title, self.tables(), draws, notes=self.notes(), pages=pages)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values: what it is about, every row with its numbers, and what is missing."""
        measured = {row.slug: one for row, one in self.rows}
        return {
            "schema": SCHEMA,
            SUITE_KEY: SUITE_VERSION,
            "about": dict(self.record.about),
            "versions": judging_versions(),
            "rows": [_record(row, measured.get(slug)) for slug, row in self.record.rows.items()],
            "left_out": list(self.left_out),
        }

    def _has_utility(self) -> bool:
        return any(spot_of(one.stored).utility for _, one in self.rows)

    def _success(self) -> Table:
        head = ("method", "trains", "no attack", WORST, "floor", WORST_EMBEDDINGS, "floor")
        return Table("Success", head, {"": [_success_entries(row, one.stored) for row, one in self.rows]}, _SUCCESS)

    def _kept(self) -> Table:
        head = ("method", "all as asked", "everyday words, less base", "CLIP score", "FID")
        lines: list[list[Entry]] = []
        for row, one in self.rows:
            found = [one.stored.named(metric) for metric in _KEPT_METRICS]
            lines.append([row.slug, *(None if result is None else Number.of(result) for result in found)])
        return Table("What is kept", head, {"": [line for line in lines if any(line[1:])]}, _KEPT)

    def _costs(self) -> Table:
        lines: list[list[Entry]] = [
            [
                row.slug,
                one.costs.form,
                f"{one.costs.bytes / 1000:,.0f} KB",
                None if one.costs.seconds is None else f"{one.costs.seconds:,.1f}",
                count(one.costs.unet_calls),
            ]
            for row, one in self.rows
            if one.costs is not None
        ]
        return Table("Costs", ("method", "form", "size", "training seconds", "UNet calls"), {"": lines}, _COSTS)

    def _groups(self) -> Table:
        lines: list[list[Entry]] = []
        for row, one in self.rows:
            for found in (group for group in _bias(one.folder) if group.differs):
                test = found.test
                rates = [Number(test.won / test.n, test.n), Number(test.rest_won / test.rest_n, test.rest_n)]
                who = [row.slug, found.outcome, f"{found.label} {found.value}"]
                lines.append([*who, *rates, f"{found.corrected:.4f}", found.reading])
        head = ("method", "attack", "group", "success", "rest", "p, corrected", "reading")
        return Table("Sub-groups that differ", head, {"": lines}, _GROUPS)


def _bias(folder: Path) -> Sequence[Any]:
    """Return the rows of the bias report of an evaluation; none if no file, sub-group or verdict is on record."""
    try:
        return BiasReport.read(folder).rows
    except (OSError, ValueError):
        return ()


def _success_entries(row: RowRecord, stored: StoredEvaluation) -> list[Entry]:
    plain = next(iter(plain_rows(stored)), None)
    worst = {one.label: one for one in worst_rows(stored)}
    by_text, by_embeddings = worst.get(WORST), worst.get(WORST_EMBEDDINGS)
    trains = "" if row.name == BASE_ROW else row.component.replace("_", " ").replace("unet", "UNet")
    return [
        row.slug,
        trains or None,
        None if plain is None else plain.number,
        *_worst_entries(by_text),
        *_worst_entries(by_embeddings),
    ]


def _worst_entries(row: Row | None) -> list[Entry]:
    if row is None:
        return [None, None]
    return [row.number, None if row.floor is None else replace(row.floor, interval=None)]


def _record(row: RowRecord, measured: Measured | None) -> dict[str, Any]:
    """Return a row as JSON values, with every number that the report can show."""
    about = {key: value for key, value in vars(row).items() if key != "status"}
    found: dict[str, Any] = {"row": row.slug, "status": row.status, **about}
    if measured is None:
        return found
    stored = measured.stored
    rates = [*plain_rows(stored), *attack_rows(stored), *worst_rows(stored)]
    others = [result for result in stored.evaluation.results if is_no_success_rate(result)]
    return {
        **found,
        "title": title_of(stored.evaluation),
        "success": [_rate_record(one) for one in rates],
        "metrics": [
            {"metric": r.metric, "value": r.value, "interval": r.interval, "n": r.n, "prompts": r.prompt_set}
            for r in others
        ],
        "groups": [one.record() for one in _bias(measured.folder)],
        "training": None if measured.costs is None else measured.costs.record(),
        "checks_failed": [dict(check) for check in stored.evaluation.checks if not check["ok"]],
    }


def _rate_record(row: Row) -> dict[str, Any]:
    number = row.number
    floor = None if row.floor is None else {"value": row.floor.value, "interval": row.floor.interval}
    return {
        "label": row.label,
        "tier": row.tier,
        "value": number.value,
        "interval": number.interval,
        "n": number.n,
        "lower_bound": number.bound,
        "floor": floor,
        "unet_calls": row.unet_calls,
        "seconds": row.seconds,
        "not_trusted": [check["name"] for check in number.failed],
    }
