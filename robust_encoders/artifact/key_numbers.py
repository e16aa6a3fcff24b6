"""The three numbers of an encoder that matter: how often the concept shows unattacked, attacked, and what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from robust_encoders.artifact.card_meanings import meaning_of
from robust_encoders.artifact.card_results import beside, doubts_of, withdrawn

# Everyday wordings come first: what is kept of the project's own captions says little about what people type.
_KEPT = ("everyday", "retain_all", "retain", "clip_score")


class KeyNumber(NamedTuple):
    """One of the three numbers, in words.

    Args:
        name: Name of the number for readers.
        value: The number with its unit; ``not measured`` or ``withdrawn`` without one.
        interval: Interval of 95 %, in the same unit, in words; empty if unknown.
        facts: Number of pictures or prompts, the better direction, and by whom it was measured.
        doubts: Reasons not to trust the number.
    """

    name: str
    value: str
    interval: str = ""
    facts: str = ""
    doubts: tuple[str, ...] = ()


def key_numbers(results: Sequence[Mapping[str, Any]]) -> tuple[KeyNumber, KeyNumber, KeyNumber]:
    """Return the three numbers; of several of a kind the worst, and what was measured before what others report.

    Args:
        results: Results of the manifest.
    """
    kept = next((rows for name in _KEPT if (rows := _of(results, name))), [])
    return (
        _shown("concept drawn unattacked", _of(results, "pre_asr"), results, worst=max),
        _shown("worst case by text attack", _of(results, "worst_case"), results, worst=max),
        _shown("kept of everything else", kept, results, worst=min),
    )


def key_lines(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of cells for each of the three numbers, and one for each of their footnotes.

    Args:
        results: Results of the manifest.
    """
    numbers = key_numbers(results)
    notes = list(dict.fromkeys(doubt for number in numbers for doubt in number.doubts))
    rows = []
    for number in numbers:
        marks = " ".join(f"({notes.index(doubt) + 1})" for doubt in number.doubts)
        rows.append((number.name, f"{number.value} {marks}".strip(), number.interval, number.facts))
    return [*rows, *((f"({i})", note) for i, note in enumerate(notes, 1))]


def _of(results: Iterable[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the numbers of a metric or of a family of metrics, such as ``retain`` for ``retain_shape``."""
    named = [one for one in results if isinstance(one.get("value"), (int, float))]
    exact = [one for one in named if one.get("metric") == metric]
    return exact or [one for one in named if str(one.get("metric")).startswith(f"{metric}_") and metric == "retain"]


def _shown(
    name: str, rows: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], *, worst: Any
) -> KeyNumber:
    valid = [one for one in rows if not withdrawn(one)]
    if not valid:
        return KeyNumber(name, "withdrawn" if rows else "not measured")
    measured = [one for one in valid if one.get("origin") == "measured"]
    result = worst(measured or valid, key=lambda one: one["value"])
    meaning, _ = meaning_of(str(result["metric"]))
    rate = meaning is not None and meaning.rate
    pair = result.get("interval")
    ends = [_number(end, rate) for end in pair] if isinstance(pair, (list, tuple)) and len(pair) == 2 else []
    facts = [
        f"n={result['n']}" if result.get("n") else "",
        f"{meaning.better} is better" if meaning is not None and meaning.better else "",
        "" if measured else "reported, not measured by this package",
        "in everyday words" if result["metric"] == "everyday" else "",
        "" if rate or meaning is None else meaning.words,
        beside(result, results),
    ]
    interval = f"95 % interval {ends[0]} to {ends[1]}" if ends else ""
    return KeyNumber(name, _number(result["value"], rate), interval, ", ".join(filter(None, facts)), doubts_of(result))


def _number(value: Any, rate: bool) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{100 * value:.0f} %" if rate else f"{value:.3f}"
