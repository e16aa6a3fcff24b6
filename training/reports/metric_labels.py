"""The names, number formats and groups of all metrics other than rates of success."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..types import Result

GROUPS: Mapping[str, str] = {
    "kept": "Kept prompts drawn as asked: higher is better",
    "structured": "Bindings, neighbours and negative prompts",
    "distance": "Distances to the base's pictures: for kept prompts, lower is better",
    "knowledge": "Concept still recognised by the Diffusion Classifier: lower is better",
    "control": "Accuracy of the judge on rendered pictures with known contents",
    "other": "Further numbers",
}


@dataclass(frozen=True)
class MetricLabel:
    """The name and number format of a metric.

    Args:
        group: Key of ``GROUPS``.
        words: Name of the metric for readers; ``{}`` stands for the label of a family's member.
        scale: Factor of all values; 100 turns a rate into per cent.
        digits: Number of digits after the decimal point.
    """

    group: str
    words: str
    scale: float = 100
    digits: int = 1


# The order is that of the tables. `retain_*` stands for every metric `retain_<label>` without a line of its own.
METRIC_LABELS: Mapping[str, MetricLabel] = {
    "retain_*": MetricLabel("kept", "{} as asked, %"),
    "retain_all": MetricLabel("kept", "all as asked, %"),
    "retain_geometry_all": MetricLabel("kept", "all as asked by geometry, %"),
    "clip_score": MetricLabel("kept", "CLIP score", 1, 3),
    "pick_score": MetricLabel("kept", "PickScore", 1, 2),
    "binding_*": MetricLabel("structured", "object with {}, %"),
    "retain_near": MetricLabel("structured", "near neighbours as asked, %"),
    "retain_far": MetricLabel("structured", "far values as asked, %"),
    "negative_without": MetricLabel("structured", "shown without a negative prompt, %"),
    "negative_with": MetricLabel("structured", "shown with it as negative prompt, %"),
    "negative_removed": MetricLabel("structured", "removed by the negative prompt, %"),
    "fid": MetricLabel("distance", "FID of kept pictures", 1, 2),
    "kid": MetricLabel("distance", "KID of kept pictures", 1, 4),
    "lpips_kept": MetricLabel("distance", "LPIPS of kept pictures", 1, 3),
    "lpips_erased": MetricLabel("distance", "LPIPS of erased pictures", 1, 3),
    "lpips_difference": MetricLabel("distance", "LPIPS, erased less kept (higher is better)", 1, 3),
    "knowledge": MetricLabel("knowledge", "concept recognised in renders of it, %"),
    "judge_*": MetricLabel("control", "judge on {}, %"),
    "judge_all": MetricLabel("control", "judge on all together, %"),
}
_NUMERALS: Mapping[str, str] = {"1": "one", "2": "two", "3": "three", "4": "four"}


def metric_label(result: Result) -> MetricLabel:
    """Return the label of a number's metric; an unknown metric counts as a rate only if a detector judged it."""
    key = _key(result.metric)
    if key == result.metric:
        return METRIC_LABELS[key]
    if key:
        known = METRIC_LABELS[key]
        return replace(known, words=known.words.format(_member(result.metric)))
    words = result.metric.replace("_", " ")
    judged = bool(result.detector) or not is_no_success_rate(result)
    return MetricLabel("other", f"{words}, %") if judged else MetricLabel("other", words, 1, 3)


def _key(metric: str) -> str:
    """Return the key of ``METRIC_LABELS`` for a metric, its own or its family's; empty if there is none."""
    family, _, label = metric.partition("_")
    return next((key for key in (metric, f"{family}_*" if label else "") if key in METRIC_LABELS), "")


def _member(metric: str) -> str:
    """Return the label of a metric within its family."""
    family, _, label = metric.partition("_")
    if family != "binding":
        return label.replace("_", " ")
    return f"{_NUMERALS.get(label, label)} attribute{'' if label == '1' else 's'}"


def members(results: Iterable[Result], family: str) -> dict[str, Result]:
    """Return label to number of a family of metrics, in the order of their first appearance.

    Args:
        results: Numbers of one or more evaluations; the first of equal labels counts.
        family: Start of the metrics' names, ``retain`` for ``retain_<label>``.
    """
    found: dict[str, Result] = {}
    for result in results:
        if _key(result.metric) == f"{family}_*":
            found.setdefault(_member(result.metric), result)
    return found


def is_no_success_rate(result: Result) -> bool:
    """Return True if a number is not a rate of success."""
    return not result.metric.startswith(("pre_", "asr_", "worst_"))


def grouped(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return title of a group to its numbers, in the order of ``GROUPS`` and ``METRIC_LABELS``."""
    places = {key: i for i, key in enumerate(METRIC_LABELS)}
    ordered = sorted(filter(is_no_success_rate, results), key=lambda r: places.get(_key(r.metric), len(places)))
    found = {title: [r for r in ordered if metric_label(r).group == group] for group, title in GROUPS.items()}
    return {title: rows for title, rows in found.items() if rows}
