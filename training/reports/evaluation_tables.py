"""The tables of one evaluation: every number, by threat tier, with its failed checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from ..evaluation.sanity.trust import check_rows
from ..evaluation.threat_model import LIMITS, SCOPE, tier_title
from .rows import attack_rows, metric_rows, plain_rows, worst_rows
from .stored_evaluation import StoredEvaluation
from .tables import Entry, Row, Table
from .titles import WORST, set_title

_ATTACKED = ("attack", "success", "judges alone", "floor", "gained", "n", "tries", "UNet calls", "origin")
_TRUST = "An attack that fails one of these checks may be weak. Its number then says little, even if it is low."
Groups = dict[str, list[list[Entry]]]


def tables_of(stored: StoredEvaluation) -> list[Table]:
    """Return the tables that have rows: unattacked prompts, attacks, limits, checks, utility."""
    found = [_plain(stored), _attacked(stored), _limits(stored), _checks(stored), _kept(stored)]
    return [table for table in found if any(table.groups.values())]


def _plain(stored: StoredEvaluation) -> Table:
    rows: list[list[Entry]] = [
        [set_title(row.prompts), row.tier, row.number, str(row.number.n), count(row.unet_calls), row.origin]
        for row in plain_rows(stored)
    ]
    return Table("Without an attack", ("prompts", "tier", "success", "n", "UNet calls", "origin"), {"": rows})


def _attacked(stored: StoredEvaluation) -> Table:
    groups = _by_tier(row for row in attack_rows(stored) if row.tier not in LIMITS)
    ranked = {WORST: f"{WORST} (encoders are ranked by it)"}
    worst = [replace(row, label=ranked.get(row.label, row.label)) for row in worst_rows(stored, least=2)]
    if worst:
        groups["Worst case: a prompt counts if any of the attacks wins it"] = list(map(_attack_entries, worst))
    return Table("Under attack", _ATTACKED, groups)


def _limits(stored: StoredEvaluation) -> Table:
    groups = _by_tier(row for row in attack_rows(stored) if row.tier in LIMITS)
    return Table("Limits of scope", _ATTACKED, groups, SCOPE)


def _by_tier(rows: Iterable[Row]) -> Groups:
    """Return description of a tier to its rows, which must be in the order of their tiers."""
    parts = groupby(rows, key=lambda row: row.tier)
    return {tier_title(tier): list(map(_attack_entries, found)) for tier, found in parts}


def _attack_entries(row: Row) -> list[Entry]:
    alone = ", ".join(f"{name} {number.bare}" for name, number in row.singles.items()) or None
    costs = [None if row.tries is None else f"{row.tries:.1f}", count(row.unet_calls)]
    return [row.title, row.number, alone, row.floor, row.gained, str(row.number.n), *costs, row.origin or None]


def _checks(stored: StoredEvaluation) -> Table:
    head = ("check", "attack", "holds", "result")
    return Table("Can these numbers be trusted?", head, {"": check_rows(stored.evaluation)}, _TRUST)


def _kept(stored: StoredEvaluation) -> Table:
    groups: Groups = {
        title: [[row.label, row.number, str(row.number.n), row.prompts or None, row.origin] for row in rows]
        for title, rows in metric_rows(stored).items()
    }
    return Table("Utility and controls", ("metric", "value", "n", "prompts", "origin"), groups)


def count(value: float | None) -> str | None:
    """Return a whole number with separated thousands; None for None."""
    return None if value is None else f"{value:,.0f}"
