"""What each single detector finds, beside what all of them agree on.

A case counts for a single detector as soon as that detector finds the concept in any judged picture of the case: the
unattacked one, those of queries, or those of candidates. Candidates after an agreed success are not drawn, but such a
case already counts for every detector of the agreement. So the rate of a single detector is never below the agreed
one, and it covers all candidates. It is a lower bound for attacks with queries or drafts, which follow the agreed
score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..metrics.rates import attack_rates, rate
from ..types import Result, Verdict

SINGLES_KEY = "singles"  # setting of a result that holds the rates of the single detectors


def with_singles(result: Result, flags: Mapping[str, Sequence[bool]], clusters: Sequence[int] | None = None) -> Result:
    """Return a rate with the rates of single detectors in its settings, if there are several detectors.

    Args:
        result: Rate by agreement.
        flags: Name of a single detector to one flag for each case.
        clusters: Number of the cluster of each case; None for independent cases.
    """
    if len(flags) < 2:
        return result
    singles = {name: _record(rows, clusters) for name, rows in flags.items()}
    return replace(result, settings={**result.settings, SINGLES_KEY: singles})


def _record(flags: Sequence[bool], clusters: Sequence[int] | None) -> dict[str, Any]:
    found = rate("", flags, clusters)
    return {"value": found.value, "n": found.n, "interval": found.interval}


def rates_of_verdicts(verdicts: Sequence[Verdict], clusters: Sequence[int] | None = None) -> list[Result]:
    """Return the success rates of one attack; ``asr_any`` has those of the single detectors in its settings.

    Args:
        verdicts: Verdicts of the attack, one for each case.
        clusters: Number of the cluster of each case; None for independent cases.
    """
    before, any_, last = ([getattr(verdict, key) for verdict in verdicts] for key in ("before", "any", "last"))
    found, *others = attack_rates(before, any_, last, clusters)
    return [with_singles(found, by_detector(verdicts), clusters), *others]


def by_detector(verdicts: Sequence[Verdict]) -> dict[str, list[bool]]:
    """Return name of a single detector to one flag for each case; empty if scores were not recorded for every case.

    Args:
        verdicts: Verdicts of an attack, one for each case.
    """
    names = {verdict.names for verdict in verdicts}
    if len(names) != 1:
        return {}
    return {name: [verdict.found_by(name) for verdict in verdicts] for name in names.pop()}


def union_by_detector(verdicts: Mapping[str, Sequence[Verdict]], labels: Collection[str]) -> dict[str, list[bool]]:
    """Return name of a single detector to the union of attacks by it, one flag for each case.

    Args:
        verdicts: Label of an attack to its verdicts on the same cases.
        labels: Labels of the attacks to join.
    """
    rows = [by_detector(verdicts[label]) for label in labels]
    names = dict.fromkeys(name for row in rows for name in row)
    if any(row.keys() != names.keys() for row in rows):
        return {}
    return {name: [any(flags) for flags in zip(*(row[name] for row in rows), strict=True)] for name in names}


def agreement(verdicts: Mapping[str, Sequence[Verdict]]) -> tuple[int, int] | None:
    """Return on how many different pictures all single detectors agree, and the number of these pictures.

    Args:
        verdicts: Label of an attack to its verdicts.

    Returns:
        None if fewer than two detectors judged, or no picture is on record.
    """
    rows = [verdict for found in verdicts.values() for verdict in found]
    pictures = [p for row in rows for p in (*row.pictures, *([] if row.unattacked is None else [row.unattacked]))]
    votes = {p.picture: {margin >= 0 for margin in p.margins.values()} for p in pictures if len(p.margins) > 1}
    return (sum(len(vote) == 1 for vote in votes.values()), len(votes)) if votes else None


def singles_of(result: Result) -> dict[str, Result]:
    """Return name of a single detector to its rate beside an agreed rate; empty without single detectors."""
    found: Mapping[str, Mapping[str, Any]] = result.settings.get(SINGLES_KEY, {})
    settings = {key: value for key, value in result.settings.items() if key != SINGLES_KEY}
    return {
        name: replace(
            result,
            value=one["value"],
            n=one["n"],
            interval=None if one["interval"] is None else (one["interval"][0], one["interval"][1]),
            detector=name,
            detector_version="",
            threshold=None,
            settings=settings,
        )
        for name, one in found.items()
    }
