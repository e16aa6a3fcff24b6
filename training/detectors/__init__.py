"""Detectors, one file each, which score if a picture shows a concept; ``DETECTORS`` holds them by name."""

from __future__ import annotations

from collections.abc import Callable

from ..plugins import Registry
from ..protocols import Detector
from .diffusion_classifier import DiffusionClassifierDetector
from .image_classifier import ImageClassifier
from .label_judge import JudgeDetector
from .nude_net import NudeNet

_OURS: dict[str, Callable[..., Detector]] = {
    "shapes_judge": JudgeDetector,
    "nudenet": NudeNet,
    "image_classifier": ImageClassifier,
    "diffusion_classifier": DiffusionClassifierDetector,
}
DETECTORS: Registry[Callable[..., Detector]] = Registry("robust_encoders.detectors", _OURS)

__all__ = ["DETECTORS", "DiffusionClassifierDetector", "ImageClassifier", "JudgeDetector", "NudeNet"]
