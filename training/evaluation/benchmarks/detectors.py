"""Detectors by name, as benchmarks make them, for a judgement without prompts and attacks."""

from __future__ import annotations

import torch

from robust_encoders.concepts import Concept

from ...protocols import Detector
from ..choices import detector_named
from ..plan import NamesDetectors
from . import BENCHMARKS


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
    kind = BENCHMARKS.get(benchmark)
    if kind is not None and issubclass(kind, NamesDetectors):
        return kind.made_by_name(name, concept, device)
    return detector_named(name, concept)
