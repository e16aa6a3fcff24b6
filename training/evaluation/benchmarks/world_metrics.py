"""Metrics that all embedded worlds share: distances of pictures from the base's, in the features of a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from robust_encoders.utils.extras import package_problems

from ...detectors.label_judge import LabelJudge
from ...metrics import FrechetDistance, JudgeAccuracy, KernelDistance, PictureDistance
from ...metrics.lpips import LayeredDistance
from ...protocols import Attack
from ...worlds.judge_features import NetworkFeatures
from ..config import EvaluationConfig, chooses
from ..plan import MetricMaker, PromptSet

DISTANCES = ("lpips_kept", "fid", "kid")
ERASED_DISTANCE = "lpips_erased"
_KERNEL_SUBSET = 100  # pictures of KID's subsets


def kept_distances(features: NetworkFeatures, n: int) -> dict[str, MetricMaker]:
    """Return the metrics that compare kept pictures with the base's.

    Args:
        features: Features of pictures.
        n: Number of kept pictures.
    """
    return {
        "lpips_kept": partial(_picture_distance, features, "lpips_kept"),
        "fid": partial(FrechetDistance, features),
        "kid": partial(KernelDistance, features, subset_size=min(_KERNEL_SUBSET, n)),
    }


def erased_distance(features: NetworkFeatures) -> dict[str, MetricMaker]:
    """Return the metric that compares unattacked pictures of the concept with the base's."""
    return {ERASED_DISTANCE: partial(_picture_distance, features, ERASED_DISTANCE)}


def kept_accuracies(judge: LabelJudge, labels: Sequence[str], kept: PromptSet) -> dict[str, MetricMaker]:
    """Return the accuracies of a judge over kept prompts: one for each label that some prompt states, and for all.

    Args:
        judge: Judge of the pictures.
        labels: Labels of the judge.
        kept: Kept prompts.
    """
    stated = _stated(kept)
    found = [label for label in labels if label in stated]
    return {f"retain_{label or 'all'}": partial(JudgeAccuracy, judge, label) for label in (*found, "")}


def unstated_problems(labels: Sequence[str], kept: PromptSet, config: EvaluationConfig) -> list[str]:
    """Return the accuracies that the configuration names although no kept prompt states their label.

    Args:
        labels: Labels of the judge.
        kept: Kept prompts.
        config: Names of metrics; if there are none, such accuracies are left out.
    """
    stated = _stated(kept)
    return [
        f"expected kept prompts that state the {label} for the metric retain_{label}, found none among "
        f"{len(kept.cases)}; ask for more with n_kept, or leave the metric out"
        for label in labels
        if f"retain_{label}" in config.metrics and label not in stated
    ]


def _stated(kept: PromptSet) -> set[str]:
    return {label for case in kept.cases for label in case.expected}


def missing_packages(attacks: Mapping[str, Attack], config: EvaluationConfig) -> list[str]:
    """Return the optional packages that are missing for the chosen attacks and metrics.

    Args:
        attacks: Label to attack of the whole suite.
        config: Names of attacks and metrics.
    """
    parts: dict[str, object] = {name: attack for name, attack in attacks.items() if chooses(config.attacks, name)}
    if any(chooses(config.metrics, name) for name in ("fid", "kid")):
        parts["FID and KID"] = FrechetDistance
    return package_problems(parts.items())


def _picture_distance(features: NetworkFeatures, name: str) -> PictureDistance:
    return PictureDistance(LayeredDistance(features.name, features.layers), name)
