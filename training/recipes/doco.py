"""Recipes of DoCo for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from robust_encoders.hub.catalog import CATALOG

from ..methods.doco import DoCo
from .recipe import Recipe
from .stable_diffusion import family_recipe, published_recipes

# The anchor of each published concept. The release names "airplane" for the parachute; the others are this package's
# choice: the concept's next wider class, or a neighbour. Nudity needs none, see ``prompts.anchor_pairs``.
ANCHORS = {
    "vangogh": "painting",
    "church": "building",
    "garbage_truck": "truck",
    "parachute": "airplane",
    "tench": "goldfish",
}
# Learning rate of the discriminator for styles, in the release.
STYLE_RATE = 5e-4


def published_doco(concept: str, family: str) -> Recipe:
    """Return the recipe of DoCo for one of the six published concepts, on Stable Diffusion's UNet.

    The settings are the release's. There are two departures: the pictures are drawn by DDIM with 50 steps, and the
    sentences of the anchor prompts are this package's own.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``.
    """
    erased = replace(CATALOG[concept].erased(), anchor=ANCHORS.get(concept, ""))
    method = DoCo(discriminator_rate=STYLE_RATE) if erased.kind == "style" else DoCo()
    return family_recipe(f"{family}/{concept}-doco", erased, method)


RECIPES: Mapping[str, Callable[[], Recipe]] = published_recipes(published_doco, "doco")
