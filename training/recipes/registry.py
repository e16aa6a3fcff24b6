"""All recipes by name, for every base."""

from __future__ import annotations

from collections.abc import Callable

from . import shapes, shapes_overlays, stable_diffusion
from .recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    **shapes.RECIPES,
    **shapes_overlays.RECIPES,
    **stable_diffusion.RECIPES,
}
