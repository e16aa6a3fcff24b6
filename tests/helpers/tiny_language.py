"""Tiny trainings with terms on any text, for tests of these terms and of their pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tiny_training import ANCHORED, TINY, prepared

from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.language_config import LanguageConfig
from robust_encoders.training.objectives.terms import Objective

RETAINED = ("a red square", "a star on white", "a red star", "a green ring", "square", "a cross")
# A weight for every term.
WEIGHTS: dict[str, Any] = {"pairs_weight": 2.0, "pool_weight": 3.0, "context_weight": 4.0, "negative_weight": 5.0}
SMALL: dict[str, Any] = {
    "pairs_batch": 4,
    "pool": 8,
    "pool_batch": 4,
    "pool_tokens": (2, 3),
    "context_batch": 4,
    "negative_batch": 4,
}


def on_language(**fields: Any) -> AdvUnlearn:
    """Return a training with small batches of terms on any text, and without the UNet."""
    return replace(
        TINY,
        retain=RetainConfig(prompts=RETAINED, space="conditioning", conditioning_batch=3),
        unlearn=UnlearnConfig(target="anchor"),
        hardening=HardeningConfig(objective="conditioning", batch=2),
        language=LanguageConfig(**{**SMALL, **fields}),
    )


def language_objective(pipe: Any, **fields: Any) -> Objective:
    """Return the objective of such a training."""
    return prepared(on_language(**fields), pipe, concept=ANCHORED)
