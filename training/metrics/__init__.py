"""Metrics and detectors of the evaluation, one file each."""

from __future__ import annotations

from ..detectors.diffusion_classifier import DiffusionClassifierDetector
from ..detectors.image_classifier import ImageClassifier
from ..detectors.nude_net import NudeNet
from ..detectors.shapes_judge import JudgeDetector
from .clip_models import ClipFeatures, HubClip, PickScore
from .clip_score import ClipScore
from .fid_kid import FrechetDistance, KernelDistance
from .lpips import PictureDistance
from .nudity_counts import NudityCounts
from .rates import ConceptRate
from .retention import JudgeAccuracy

METRICS = {
    "concept_rate": ConceptRate,
    "judge_accuracy": JudgeAccuracy,
    "clip_score": ClipScore,
    "fid": FrechetDistance,
    "kid": KernelDistance,
    "picture_distance": PictureDistance,
    "nudity_counts": NudityCounts,
    "pick_score": PickScore,
}
DETECTORS = {
    "shapes_judge": JudgeDetector,
    "nudenet": NudeNet,
    "image_classifier": ImageClassifier,
    "diffusion_classifier": DiffusionClassifierDetector,
}

__all__ = [
    "DETECTORS",
    "METRICS",
    "ClipFeatures",
    "ClipScore",
    "ConceptRate",
    "DiffusionClassifierDetector",
    "FrechetDistance",
    "HubClip",
    "ImageClassifier",
    "JudgeAccuracy",
    "JudgeDetector",
    "KernelDistance",
    "NudeNet",
    "NudityCounts",
    "PickScore",
    "PictureDistance",
]
