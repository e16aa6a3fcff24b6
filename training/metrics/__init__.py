"""Metrics and detectors of the evaluation, one file each."""

from __future__ import annotations

from .clip_score import ClipScore
from .judge_detector import JudgeDetector
from .rates import ConceptRate
from .retain import JudgeAccuracy

METRICS = {"concept_rate": ConceptRate, "judge_accuracy": JudgeAccuracy, "clip_score": ClipScore}
DETECTORS = {"shapes_judge": JudgeDetector}

__all__ = ["DETECTORS", "METRICS", "ClipScore", "ConceptRate", "JudgeAccuracy", "JudgeDetector"]
