"""Recipes of DoCo for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from ..methods.doco import DoCo, DoCoTrainingConfig
from ..trainer.unet_parameters import UNetSelectionConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def corrected(component: Literal["text_encoder", "unet"], retained: tuple[str, ...]) -> DoCo:
    """Return the settings of DoCo for a concept of the embedded base.

    There are four departures from the release. Captions are erased, each towards the same caption with the anchor in
    the concept's place. Pictures of retained captions join the preserving loss, and its gradient is applied, too.
    Batches and rates are larger, and there are fewer iterations and pictures. Pictures are drawn in 20 steps with
    guidance 3.

    Args:
        component: Component to train, ``unet`` or ``text_encoder``.
        retained: Captions without the concept, which are preserved.
    """
    return DoCo(
        component=component,
        unet=UNetSelectionConfig(group="x-strict"),
        retain=retained,
        pictures=256,
        batch=16,
        warmup=100,
        prior_weight=1.0,
        train=DoCoTrainingConfig(iterations=400, rate=1e-3 if component == "unet" else 3e-4),
        bank=BankConfig(steps=20, guidance=3.0),
    )


VARIANTS: Mapping[str, Settings] = {"doco": partial(corrected, "unet"), "doco-te": partial(corrected, "text_encoder")}
RECIPES: Mapping[str, Callable[[], Recipe]] = shapes_recipes(VARIANTS)
