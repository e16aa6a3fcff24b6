"""Tiny trainings with terms on outliers, for tests of these terms and of their search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tiny_training import ANCHORED, TINY, prepared

from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import HardeningConfig, OutlierConfig, UnlearnConfig
from robust_encoders.training.objectives.terms import LossTerm, Objective

ALTERNATIVES = ("square", "star", "ring", "cross")
# A weight for every term.
ALL: dict[str, Any] = {
    "strings_weight": 2.0,
    "shuffled_weight": 3.0,
    "off_manifold_weight": 4.0,
    "searched_weight": 5.0,
    "inserted_weight": 6.0,
}
NAMES = ("strings", "shuffled", "off_manifold", "inserted", "empty", "searched")


def against_outliers(*, eta: float = 0.0, **fields: Any) -> AdvUnlearn:
    """Return a training with small batches of terms on outliers."""
    small = {
        "empty_weight": 0.0,
        "strings_batch": 4,
        "shuffled_batch": 4,
        "off_manifold_batch": 4,
        "inserted_batch": 4,
        "searched": 6,
        "searched_batch": 3,
    }
    given = {"alternatives": ALTERNATIVES, "longest": 4, "searched_tokens": 3, **small, **fields}
    outliers = OutlierConfig(**given)
    return replace(TINY, unlearn=UnlearnConfig(batch=2), hardening=HardeningConfig(eta=eta), outliers=outliers)


def outlier_objective(pipe: Any, *, eta: float = 0.0, **fields: Any) -> Objective:
    """Return the objective of such a training."""
    return prepared(against_outliers(eta=eta, **fields), pipe, concept=ANCHORED)


def terms_on_outliers(made: Objective) -> list[LossTerm]:
    """Return the terms on outliers in their order."""
    return [term for term in made.terms if term.name in NAMES]
