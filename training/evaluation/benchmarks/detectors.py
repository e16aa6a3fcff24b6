"""Detectors by name, as benchmarks make them, for a judgement without prompts and attacks."""

from __future__ import annotations

import torch

from robust_encoders.concepts import Concept

from ...protocols import Detector
from ..choices import detector_named
from ..config import EvaluationConfig
from .shapes import ShapesBenchmark, shapes_plan
from .stable_diffusion import StableDiffusionBenchmark


def benchmark_detector(benchmark: str, name: str, concept: Concept, *, device: str | torch.device = "cpu") -> Detector:
    """Return a detector that a benchmark's option ``detector`` names, or one of ``DETECTORS`` for other benchmarks.

    Args:
        benchmark: Name of the benchmark.
        name: Name of the detector.
        concept: Concept that it finds.
        device: Device of a classifier.

    Raises:
        ValueError: If there is no such detector, or it cannot be made by name.
        OSError: If a model is not there.
        ModuleNotFoundError: Naming the extra to install.
    """
    if benchmark == ShapesBenchmark.name:
        return shapes_plan(ShapesBenchmark(concept, detector=name), EvaluationConfig()).detector
    if benchmark == StableDiffusionBenchmark.name:
        return StableDiffusionBenchmark(concept=concept, prompts="", kept="", detector=name).made_detector(device)
    return detector_named(name, concept)
