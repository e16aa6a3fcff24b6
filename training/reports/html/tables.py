"""The tables of a report: every number, by threat tier, with what tells against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...evaluation.sanity.trust import Marks, check_rows, failed_checks, failed_checks_of_all
from ...evaluation.threat_model import LIMITS, SCOPE, tier_of, tier_title
from ...types import Result
from ..metric_labels import MISSING, cell, grouped, metric_label
from ..plots.data import WORST, attack_title, worst_cases
from ..stored_evaluation import StoredEvaluation, WorstCaseRate
from .text import count, set_title

Rows = Sequence[Sequence[str]]
_ATTACKED = ("attack", "success", "gained", "last", "n", "UNet calls", "seconds", "origin")
_TRUST = "An attack that fails one of them may be weak: then its number says little, however low it is."


@dataclass(frozen=True)
class Table:
    """A table as the page shows it.

    Args:
        title: Above it.
        head: Name of each column.
        groups: Subheading to rows, in order; the subheading is empty where there is nothing to tell apart.
        note: Below the title.
        footnotes: Below the table.
    """

    title: str
    head: tuple[str, ...]
    groups: Mapping[str, Rows]
    note: str = ""
    footnotes: tuple[str, ...] = ()


def tables_of(stored: StoredEvaluation) -> list[Table]:
    """Return the tables of unattacked and attacked prompts, limits, checks, and of what is kept; no empty ones."""
    found = [_plain(stored), _attacked(stored), _limits(stored), _checks(stored), _kept(stored)]
    return [table for table in found if any(table.groups.values())]


def _plain(stored: StoredEvaluation) -> Table:
    rows = [[set_title(r.prompt_set), tier_of(r), *_numbers(r), r.origin] for r in stored.plain]
    return Table("Without an attack", ("prompts", "tier", "success", "n", "UNet calls", "origin"), {"": tuple(rows)})


def _numbers(result: Result) -> list[str]:
    return [cell(result), str(result.n), count(result.unet_calls)]


def _attacked(stored: StoredEvaluation) -> Table:
    marks = Marks()
    shown = [(label, r) for label, r in stored.attacks.items() if tier_of(r) not in LIMITS]
    groups = _by_tier(shown, lambda label, result: _attack_row(stored, label, result, marks))
    worst = tuple(_worst_row(stored, name, one, marks) for name, one in worst_cases(stored))
    if worst:
        groups["Worst case: a prompt counts if any of the attacks wins it"] = worst
    return Table("Under attack", _ATTACKED, groups, footnotes=tuple(marks.notes()))


def _limits(stored: StoredEvaluation) -> Table:
    marks = Marks()
    shown = [(label, r) for label, r in stored.attacks.items() if tier_of(r) in LIMITS]
    groups = _by_tier(shown, lambda label, result: _attack_row(stored, label, result, marks))
    return Table("Limits of scope", _ATTACKED, groups, SCOPE, tuple(marks.notes()))


def _by_tier(shown: Iterable[tuple[str, Result]], row: Callable[[str, Result], Sequence[str]]) -> dict[str, Rows]:
    """Return tier in words to its rows; the attacks come in the order of their tiers."""
    parts = groupby(shown, key=lambda pair: tier_of(pair[1]))
    return {tier_title(tier): tuple(row(label, result) for label, result in rows) for tier, rows in parts}


def _attack_row(stored: StoredEvaluation, label: str, result: Result, marks: Marks) -> list[str]:
    seconds = stored.evaluation.seconds.get(f"attack-{label}")
    others = [cell(stored.named(metric, label)) for metric in ("asr_gained", "asr_last")]
    spent = MISSING if seconds is None else count(seconds)
    success = marks.beside(cell(result), failed_checks(stored.evaluation, result))
    return [attack_title(result), success, *others, str(result.n), count(result.unet_calls), spent, result.origin]


def _worst_row(stored: StoredEvaluation, name: str, worst: WorstCaseRate, marks: Marks) -> list[str]:
    origins = dict.fromkeys(stored.attacks[label].origin for label in worst.labels if label in stored.attacks)
    success = marks.beside(worst.text, failed_checks_of_all(stored.evaluation, worst.labels))
    title = f"{name}, which encoders are ranked by" if name == WORST else name
    return [title, success, MISSING, MISSING, str(worst.n), MISSING, MISSING, ", ".join(origins) or MISSING]


def _checks(stored: StoredEvaluation) -> Table:
    head = ("check", "attack", "holds", "what was found")
    rows = tuple(check_rows(stored.evaluation))
    return Table("Can these numbers be trusted?", head, {"": rows}, _TRUST)


def _kept(stored: StoredEvaluation) -> Table:
    groups = {
        title: tuple([metric_label(r).words, cell(r), str(r.n), r.prompt_set or MISSING, r.origin] for r in results)
        for title, results in grouped(stored.evaluation.results).items()
    }
    return Table("What is kept, and controls", ("metric", "value", "n", "prompts", "origin"), groups)
