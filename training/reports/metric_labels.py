"""What the numbers beside rates of success are called, how they are written, and which of them belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..types import Result

MISSING = "–"  # noqa: RUF001  # the dash for "not measured"
GROUPS: Mapping[str, str] = {
    "kept": "Kept prompts, as asked: higher is better",
    "structured": "Bindings, neighbours and negative prompts",
    "distance": "Distances to the base's pictures: for kept prompts, lower is nearer to the base and better",
    "knowledge": "What the Diffusion Classifier still recognises: lower is less",
    "control": "The judge on rendered pictures, where the truth is known",
    "other": "Further numbers",
}
_FACTORS = ("shape", "colour", "background", "style")


@dataclass(frozen=True)
class MetricLabel:
    """How a metric is shown.

    Args:
        group: Key of ``GROUPS``.
        words: What it is, for people.
        scale: By which values are multiplied; 100 makes per cent of a rate.
        digits: After the point.
    """

    group: str
    words: str
    scale: float = 100
    digits: int = 1


METRIC_LABELS: Mapping[str, MetricLabel] = {
    **{f"retain_{factor}": MetricLabel("kept", f"{factor} as asked, %") for factor in _FACTORS},
    "retain_all": MetricLabel("kept", "all as asked, %"),
    "clip_score": MetricLabel("kept", "CLIP score", 1, 3),
    "pick_score": MetricLabel("kept", "PickScore", 1, 2),
    "binding_1": MetricLabel("structured", "object with one attribute, %"),
    "binding_2": MetricLabel("structured", "object with two attributes, %"),
    "binding_3": MetricLabel("structured", "object with three attributes, %"),
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
    **{f"judge_{factor}": MetricLabel("control", f"judge on {factor}, %") for factor in _FACTORS},
    "judge_all": MetricLabel("control", "judge on all together, %"),
}


def metric_label(result: Result) -> MetricLabel:
    """Return how a number is shown; of what nobody described, only what a detector judged is taken for a rate."""
    if known := METRIC_LABELS.get(result.metric):
        return known
    words = result.metric.replace("_", " ")
    judged = bool(result.detector) or not is_no_success_rate(result)
    return MetricLabel("other", f"{words}, %") if judged else MetricLabel("other", words, 1, 3)


def cell(result: Result | None) -> str:
    """Return a number with its interval, rates in per cent; a dash for what was not measured."""
    if result is None:
        return MISSING
    shown = metric_label(result)
    text = f"{shown.scale * result.value:.{shown.digits}f}"
    if result.interval is None:
        return text
    low, high = (f"{shown.scale * bound:.{shown.digits}f}" for bound in result.interval)
    return f"{text} [{low}, {high}]"


def is_no_success_rate(result: Result) -> bool:
    """Return whether a number is anything else than a rate of success."""
    return not result.metric.startswith(("pre_", "asr_", "worst_"))


def grouped(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return title of a group to its numbers, groups and metrics in the order in which they are described here."""
    places = {metric: i for i, metric in enumerate(METRIC_LABELS)}
    ordered = sorted(filter(is_no_success_rate, results), key=lambda r: places.get(r.metric, len(places)))
    found = {title: [r for r in ordered if metric_label(r).group == group] for group, title in GROUPS.items()}
    return {title: rows for title, rows in found.items() if rows}
