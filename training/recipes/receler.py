"""Recipes of Receler for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from robust_encoders.hub.catalog import CATALOG

from ..methods.receler import Receler
from .recipe import Recipe
from .stable_diffusion import LICENSES, PUBLISHED_CONCEPTS


def published_receler(concept: str, family: str) -> Recipe:
    """Return the recipe of Receler for one of the six published concepts on Stable Diffusion, with its defaults.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``; the paper uses Stable Diffusion 1.4, of ``sd1``.
    """
    name, license = f"{family}/{concept}-receler", LICENSES[family]
    return Recipe(name=name, concept=CATALOG[concept].erased(), method=Receler(), base=family, license=license)


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    f"{family}/{concept}-receler": partial(published_receler, concept, family)
    for family in LICENSES
    for concept in PUBLISHED_CONCEPTS
}
