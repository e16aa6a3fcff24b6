"""The table of evaluations whose suite has no worst case, with one row for each encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..evaluation.results import Evaluation
from ..evaluation.sanity.trust import Marks
from ..evaluation.suite import by_version, suite_title
from ..types import Result
from .metric_labels import members
from .tables import Number, Table
from .titles import title_of

Column = tuple[str, Callable[[Result], bool]]


def _plain(words: str) -> Callable[[Result], bool]:
    return lambda result: result.metric == "pre_asr" and result.prompt_set.endswith(f"/{words}")


def _attacked(label: str, metric: str = "asr_any") -> Callable[[Result], bool]:
    return lambda result: result.metric == metric and result.settings.get("attack", {}).get("label") == label


def _named(metric: str) -> Callable[[Result], bool]:
    return lambda result: result.metric == metric


_RATES: tuple[Column, ...] = (
    ("pre-ASR name", _plain("name")),
    ("pre-ASR synonyms seen", _plain("seen")),
    ("pre-ASR synonym unseen", _plain("unseen")),
    ("ASR continuous, per prompt", _attacked("continuous")),
    ("ASR continuous, shared", _attacked("shared")),
    ("ASR discrete", _attacked("discrete")),
    ("ASR discrete, last", _attacked("discrete", "asr_last")),
    ("random prefixes", _attacked("random")),
    ("random prefix, last", _attacked("random", "asr_last")),
)


def results_table(evaluations: Sequence[Evaluation]) -> str:
    """Return Markdown tables, one for each suite version and concept, with one row for each evaluation.

    Rates are in per cent with their 95 % interval. A line below the table gives the judge's accuracy on rendered
    pictures with known contents. No accuracy in the table can be expected to exceed it.

    Args:
        evaluations: Evaluations, in the order of the rows.

    Raises:
        ValueError: If there are no evaluations.
    """
    if not evaluations:
        raise ValueError("expected at least one evaluation, found none: name a folder with results.json")
    return "\n".join(_concept(title, rows) for title, rows in by_concept(evaluations).items())


def by_concept(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return title of a table to its evaluations, all of one suite version and one concept; newest version first."""
    return {
        suite_title(concept, version): [one for one in rows if one.concept == concept]
        for version, rows in by_version(evaluations).items()
        for concept in dict.fromkeys(one.concept for one in rows)
    }


def _concept(title: str, evaluations: Sequence[Evaluation]) -> str:
    columns = [c for c in _columns(evaluations) if any(_find(one, c) for one in evaluations)]
    rows = [[title_of(one), *(_find(one, column) for column in columns)] for one in evaluations]
    table = Table(title, ["encoder", *(name for name, _ in columns)], {"": rows})
    lines = [f"### {title}", "", *table.markdown(Marks()), "", sizes(evaluations)]
    return "\n".join([*lines, *filter(None, [judge_line(evaluations)]), ""])


def _columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    kept = members((result for one in evaluations for result in one.results), "retain")
    retained = [(f"retain {label}", _named(result.metric)) for label, result in kept.items()]
    return [*_RATES, *retained, ("CLIP score", _named("clip_score"))]


def _find(evaluation: Evaluation, column: Column) -> Number | None:
    _, wanted = column
    return next((Number.of(result) for result in evaluation.results if wanted(result)), None)


def sizes(evaluations: Sequence[Evaluation]) -> str:
    """Return a line about units, intervals, and the number of prompts without the concept."""
    kept = sorted({r.n for one in evaluations for r in one.results if r.metric in ("retain_all", "clip_score")})
    text = "Per cent with 95 % Wilson intervals. Each encoder was tested on n prompts with the concept"
    return f"{text} and {', '.join(map(str, kept))} without it." if kept else f"{text}."


def judge_line(evaluations: Sequence[Evaluation]) -> str:
    """Return a line with the judge's accuracy on rendered pictures; empty if it was not measured."""
    parts = judge_accuracies(evaluations[0].results)
    return f"Accuracy of the judge on rendered pictures, in per cent: {parts}." if parts else ""


def judge_accuracies(results: Sequence[Result]) -> str:
    """Return the judge's accuracy on rendered pictures for each attribute; empty if it was not measured."""
    return ", ".join(f"{label} {Number.of(result).text}" for label, result in members(results, "judge").items())
