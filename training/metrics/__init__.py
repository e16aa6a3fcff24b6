"""Metrics over the pictures of many cases, one file each; ``METRICS`` holds them by name."""

from __future__ import annotations

from collections.abc import Callable

from ..plugins import Registry
from ..protocols import Metric
from .clip_models import ClipFeatures, HubClip, PickScore
from .clip_score import ClipScore
from .fid_kid import FrechetDistance, KernelDistance
from .lpips import PictureDistance
from .nudity_counts import NudityCounts
from .rates import ConceptRate
from .retention import JudgeAccuracy

_OURS: dict[str, Callable[..., Metric]] = {
    "concept_rate": ConceptRate,
    "judge_accuracy": JudgeAccuracy,
    "clip_score": ClipScore,
    "fid": FrechetDistance,
    "kid": KernelDistance,
    "picture_distance": PictureDistance,
    "nudity_counts": NudityCounts,
    "pick_score": PickScore,
}
METRICS: Registry[Callable[..., Metric]] = Registry("robust_encoders.metrics", _OURS)

__all__ = [
    "METRICS",
    "ClipFeatures",
    "ClipScore",
    "ConceptRate",
    "FrechetDistance",
    "HubClip",
    "JudgeAccuracy",
    "KernelDistance",
    "NudityCounts",
    "PickScore",
    "PictureDistance",
]
