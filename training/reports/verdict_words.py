"""The verdict on an encoder in words, which opens its report."""

from __future__ import annotations

from collections.abc import Iterator

from ..evaluation.floors import chance_in
from ..evaluation.sanity.trust import NOT_TRUSTED
from ..types import Result
from .rows import worst_rows
from .stored_evaluation import StoredEvaluation
from .tables import Number, Row

_BY = {"worst_case": "Attacks by text", "worst_case_embeddings": "Attacks by text and by free embeddings"}


def verdict_words(stored: StoredEvaluation) -> list[str]:
    """Return sentences on the concept without and under attack, on chance, and on what is kept; empty for the base.

    Args:
        stored: Evaluation with its verdicts.
    """
    if stored.evaluation.label == "base":
        return []
    return [*_plain(stored), *_worst(stored), *_kept(stored)]


def _plain(stored: StoredEvaluation) -> Iterator[str]:
    for result in stored.plain[:1]:
        yield f"Without an attack, {_shown(result)} of {result.n} pictures show “{stored.evaluation.concept}”."


def _worst(stored: StoredEvaluation) -> Iterator[str]:
    for row in worst_rows(stored):
        bound = "at least " if row.number.bound else ""
        won = round(row.number.value * row.number.n)
        yield f"{_BY[row.metric]} win {bound}{won} of {row.number.n} prompts ({_percent(row.number)}).{_marks(row)}"
        if (result := stored.named(row.metric, row.metric)) is not None:
            yield from _by_chance(result)


def _by_chance(result: Result) -> Iterator[str]:
    if (chance := chance_in(result)) is not None:
        yield f"As many pictures without any attack would win {100 * chance.lower.rate:.0f} %."


def _marks(row: Row) -> str:
    return f" This number is {NOT_TRUSTED}: see the checks." if row.number.failed else ""


def _kept(stored: StoredEvaluation) -> Iterator[str]:
    own, base, difference = (stored.named(f"everyday{end}") for end in ("", "_base", "_difference"))
    if own is not None and base is not None and difference is not None:
        points = Number.of(difference)
        yield (
            f"Other prompts in everyday words are drawn as asked in {100 * own.value:.0f} % of {own.n} pictures, "
            f"and by the base in {100 * base.value:.0f} % (difference {points.text} points)."
        )
    elif (kept := stored.named("retain_all")) is not None:
        yield f"Other prompts are drawn as asked in {100 * kept.value:.0f} % of {kept.n} pictures."


def _shown(result: Result) -> int:
    return round(result.value * result.n)


def _percent(number: Number) -> str:
    return " ".join(filter(None, (f"{number.bare} %", number.bounds)))
