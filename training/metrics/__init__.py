"""Metrics and detectors of the evaluation, one file each."""

from __future__ import annotations

from .clip_hub import ClipFeatures, HubClip, PickScore
from .clip_score import ClipScore
from .diffusion_classifier import DiffusionClassifierDetector
from .feature_distance import FrechetDistance, KernelDistance
from .image_classifier import ImageClassifier
from .judge_detector import JudgeDetector
from .nude_net import NudeNet
from .nudity_counts import NudityCounts
from .picture_distance import PictureDistance
from .rates import ConceptRate
from .retain import JudgeAccuracy

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
