"""The detectors of the shapes world: each judge alone, and what both find."""

from __future__ import annotations

import pytest
import torch

from robust_encoders.training.detectors.agreement import Agreement
from robust_encoders.training.detectors.label_judge import JudgeDetector
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark, shapes_plan
from robust_encoders.training.evaluation.benchmarks.shapes_detectors import SHAPES_DETECTORS, shapes_detector
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.geometry import GeometryJudge
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.pictures import render_pictures
from robust_encoders.training.worlds.shapes.rejects import reject_pictures

CIRCLE = ShapesConcept.parse("circle")


def test_a_circle_counts_only_if_both_judges_find_it() -> None:
    images = torch.cat([render_pictures(30, seed=1).images, reject_pictures(30, seed=2).images]).float() / 255
    found = {name: shapes_detector(name, "circle", CIRCLE.concept, load_judge()) for name in SHAPES_DETECTORS}
    flags = {name: (one(images) >= one.threshold).tolist() for name, one in found.items()}
    both = [a and b for a, b in zip(flags["shapes_judge"], flags["shapes_geometry"], strict=True)]
    assert flags["shapes_agreed"] == both
    assert 0 < sum(both) < len(images)


def test_the_benchmark_takes_what_both_find_unless_it_is_told_otherwise() -> None:
    assert isinstance(shapes_plan(ShapesBenchmark("circle"), EvaluationConfig()).detector, Agreement)
    for name, judge in (("shapes_judge", "shapes-judge"), ("shapes_geometry", "shapes-geometry")):
        detector = shapes_plan(ShapesBenchmark("circle", detector=name), EvaluationConfig()).detector
        assert isinstance(detector, JudgeDetector)
        assert detector.name == f"{judge}/circle"


def test_another_judge_decides_alone() -> None:
    detector = shapes_detector("shapes_agreed", "circle", CIRCLE.concept, GeometryJudge())
    assert isinstance(detector, JudgeDetector)


def test_no_detector_looks_for_none() -> None:
    with pytest.raises(ValueError, match=r"outlined, found 'none'"):
        JudgeDetector(GeometryJudge(), "none")
