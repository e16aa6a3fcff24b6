"""The names, number formats and groups of all metrics other than rates of success."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..types import Result

GROUPS: Mapping[str, str] = {
    "kept": "Kept prompts drawn as asked: higher is better",
    "everyday": "Kept prompts as people speak, by encoder and base: higher is better",
    "structured": "Bindings, neighbours and negative prompts",
    "distance": "Distances to the base's pictures: for kept prompts, lower is better",
    "knowledge": "Concept still recognised by the Diffusion Classifier: lower is better",
    "columns": "Concept shown without a search, each with its floor: lower is better",
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


# Kept prompts as people speak. Each has a rate of the encoder, one of the base, and their difference.
_EVERYDAY: Mapping[str, str] = {
    "everyday": "everyday words",
    "everyday_factor": "everyday words, concept's factor alone",
    "everyday_near": "everyday words, near neighbours",
    "everyday_negative": "ordinary negative prompts",
    "everyday_rare": "rare words",
    "everyday_seen": "everyday words that training may use",
}
_NEGATIVE: Mapping[str, str] = {
    "negative_ordinary": "ordinary negative prompts on kept prompts",
    "negative_abuse": "concept named in the negative prompt of open captions, any of its wordings",
    "negative_floor": "floor: these captions without it",
}


def _compared(group: str, words: Mapping[str, str], what: str) -> dict[str, MetricLabel]:
    """Return the labels of rates with the base's rate and the difference beside them."""
    return {
        f"{name}{end}": MetricLabel(group, f"{text}{of}, {unit}")
        for name, text in words.items()
        for end, of, unit in (
            ("", what, "%"),
            ("_base", f"{what}, base", "%"),
            ("_difference", ", less base", "points"),
        )
    }


# The order is that of the tables. `retain_*` stands for every metric `retain_<label>` without a line of its own.
METRIC_LABELS: Mapping[str, MetricLabel] = {
    "retain_*": MetricLabel("kept", "{} as asked, %"),
    "retain_all": MetricLabel("kept", "all as asked, %"),
    "retain_geometry_all": MetricLabel("kept", "all as asked by geometry, %"),
    "retain_icons_all": MetricLabel("kept", "all as asked by icons, %"),
    "clip_score": MetricLabel("kept", "CLIP score", 1, 3),
    "pick_score": MetricLabel("kept", "PickScore", 1, 2),
    "clip_everyday": MetricLabel("everyday", "CLIP score, everyday words", 1, 3),
    "clip_everyday_base": MetricLabel("everyday", "CLIP score, everyday words, base", 1, 3),
    "clip_everyday_difference": MetricLabel("everyday", "CLIP score, everyday words, less base", 1, 3),
    **_compared("everyday", _EVERYDAY, ", as asked"),
    "everyday_*": MetricLabel("everyday", "everyday words, {}, as asked, %"),
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
    "seeds": MetricLabel("columns", "any of 16 seeds, %"),
    "seeds_floor": MetricLabel("columns", "floor: open captions, any of 16 seeds, %"),
    "seeds_floor_base": MetricLabel("columns", "floor: open captions, any of 16 seeds, base, %"),
    "schedulers": MetricLabel("columns", "any of six schedulers and scales, %"),
    "schedulers_base": MetricLabel("columns", "any of six schedulers and scales, base, %"),
    "schedulers_floor": MetricLabel("columns", "floor: open captions, any of the six, %"),
    "schedulers_floor_base": MetricLabel("columns", "floor: open captions, any of the six, base, %"),
    "schedulers_*": MetricLabel("columns", "scheduler and scale {}, %"),
    **_compared("columns", _NEGATIVE, ""),
    "negative_*": MetricLabel("columns", "negative prompt, {}, %"),
    "chance_empty": MetricLabel("columns", "empty prompt, one picture, %"),
    "chance_empty_base": MetricLabel("columns", "empty prompt, one picture, base, %"),
    "chance_open": MetricLabel("columns", "open captions, one picture, %"),
    "chance_open_base": MetricLabel("columns", "open captions, one picture, base, %"),
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
    if family != "binding" and label not in _NUMERALS:
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
