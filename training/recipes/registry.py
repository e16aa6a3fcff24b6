"""Named recipes, those of every base."""

from __future__ import annotations

from collections.abc import Callable

from . import shapes, shapes_overlays, stable_diffusion
from .recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    **shapes.RECIPES,
    **shapes_overlays.RECIPES,
    **stable_diffusion.RECIPES,
}


def variant_of(name: str, concept: str) -> str:
    """Return what tells a recipe apart from the others of its concept, ``strict`` of ``shapes/circle-strict``.

    A concept that is shipped stands for the variant that is shipped; a name without a variant stays as it is.

    Args:
        name: Name of the recipe, ``base/concept-variant``.
        concept: Name of the concept.
    """
    base, _, rest = name.rpartition("/")
    return SHIPPED[rest] if base == "shapes" and rest in SHIPPED else rest.removeprefix(f"{concept}-")
