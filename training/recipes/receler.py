"""Recipes of Receler for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robust_encoders.hub.catalog import CATALOG

from ..methods.receler import Receler
from .recipe import Recipe
from .stable_diffusion import family_recipe, published_recipes


def published_receler(concept: str, family: str) -> Recipe:
    """Return the recipe of Receler for one of the six published concepts on Stable Diffusion, with its defaults.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``; the paper uses Stable Diffusion 1.4, of ``sd1``.
    """
    return family_recipe(f"{family}/{concept}-receler", CATALOG[concept].erased(), Receler())


RECIPES: Mapping[str, Callable[[], Recipe]] = published_recipes(published_receler, "receler")
