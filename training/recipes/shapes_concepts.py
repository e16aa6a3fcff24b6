"""Recipes of every concept of the shapes world, whose settings depend on the retain prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..protocols import Method
from ..worlds.shapes.concepts import CONCEPTS
from ..worlds.shapes.retain import retain_prompts
from .recipe import Recipe

Settings = Callable[[tuple[str, ...]], Method]


def shapes_recipes(variants: Mapping[str, Settings]) -> dict[str, Callable[[], Recipe]]:
    """Return a recipe of each variant for each concept of the embedded base, named ``shapes/CONCEPT-VARIANT``.

    Args:
        variants: Function from retain prompts to a method with its settings, by variant.
    """
    return {
        f"shapes/{concept}-{variant}": partial(_recipe, concept, variant, settings)
        for concept in CONCEPTS
        for variant, settings in variants.items()
    }


def _recipe(concept: str, variant: str, settings: Settings) -> Recipe:
    method = settings(retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{variant}", concept=CONCEPTS[concept], method=method)
