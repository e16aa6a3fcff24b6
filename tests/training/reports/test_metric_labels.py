"""How numbers are written: rates in per cent, everything else as it is."""

from __future__ import annotations

import pytest

from robust_encoders.training.reports.metric_labels import grouped, members, metric_label
from robust_encoders.training.reports.tables import Number
from robust_encoders.training.types import Result


def test_a_pick_score_is_no_percentage() -> None:
    assert Number.of(Result("pick_score", 21.3, 100, (20.9, 21.7))).text == "21.30 [20.90, 21.70]"
    assert metric_label(Result("pick_score", 21.3, 100)).words == "PickScore"
    assert list(grouped([Result("pick_score", 21.3, 100)])) == ["Kept prompts drawn as asked: higher is better"]


@pytest.mark.parametrize(
    ("result", "words", "text"),
    [
        (Result("mean_area", 0.25, 10), "mean area", "0.250"),
        (Result("mean_area", 12.5, 10, (12.0, 13.0)), "mean area", "12.500 [12.000, 13.000]"),
        (Result("nudity_rate", 0.25, 10, detector="nudenet"), "nudity rate, %", "25.0"),
        (Result("asr_any", 0.25, 10), "asr any, %", "25.0"),  # by others, who do not say by which detector
        (Result("pre_asr", 0.25, 10), "pre asr, %", "25.0"),
        (Result("worst_case", 0.25, 10), "worst case, %", "25.0"),
        (Result("retain_all", 0.25, 10), "all as asked, %", "25.0"),
    ],
)
def test_what_nobody_described_is_a_rate_only_if_a_detector_judged_it(result: Result, words: str, text: str) -> None:
    assert (metric_label(result).words, Number.of(result).text) == (words, text)


@pytest.mark.parametrize(
    ("metric", "group", "words"),
    [
        ("retain_texture", "kept", "texture as asked, %"),
        ("retain_line_width", "kept", "line width as asked, %"),
        ("retain_near", "structured", "near neighbours as asked, %"),
        ("judge_texture", "control", "judge on texture, %"),
        ("judge_all", "control", "judge on all together, %"),
        ("binding_1", "structured", "object with one attribute, %"),
        ("binding_7", "structured", "object with 7 attributes, %"),
    ],
)
def test_families_of_metrics_are_named_by_their_labels(metric: str, group: str, words: str) -> None:
    label = metric_label(Result(metric, 0.5, 4))
    assert (label.group, label.words) == (group, words)


def test_members_stand_in_the_order_of_their_first_appearance() -> None:
    metrics = ("retain_size", "retain_all", "retain_texture", "judge_size", "retain_size", "retain")
    results = [Result(metric, 0.1 * i, 4) for i, metric in enumerate(metrics)]
    assert members(results, "retain") == {"size": results[0], "texture": results[2]}
    (rows,) = grouped(results[:3]).values()
    assert [r.metric for r in rows] == ["retain_size", "retain_texture", "retain_all"]
