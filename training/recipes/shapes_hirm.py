"""Recipes of HiRM for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods.hirm import HiRM, HiRMTrainingConfig
from ..objectives.hirm import Target
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def misdirected(target: Target, retained: tuple[str, ...]) -> HiRM:
    """Return the settings of HiRM for a concept of the embedded base.

    There are four departures from the paper. Captions are misdirected instead of bare words, with HiRM-S each towards
    the same caption with the anchor in the concept's place. Captions without the concept are retained. Batches take
    turns, and there are more iterations, at a rate that falls from ten times the default. The random target has a norm
    of 99, so that its entries are as large as those of the default 500 in CLIP ViT-L/14.

    Args:
        target: Kind of the target.
        retained: Captions without the concept.
    """
    return HiRM(
        target=target,
        scale=99.0 if target == "random" else None,
        texts="prompts",
        batch=32,
        retain=retained,
        retain_weight=30.0 if target == "random" else 1.0,
        retain_batch=32,
        train=HiRMTrainingConfig(iterations=200, rate=1e-3, schedule="cosine"),
    )


VARIANTS: Mapping[str, Settings] = {"hirm": partial(misdirected, "random"), "hirm-s": partial(misdirected, "anchor")}
RECIPES: Mapping[str, Callable[[], Recipe]] = shapes_recipes(VARIANTS)
