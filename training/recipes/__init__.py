"""Named, complete training runs."""

from __future__ import annotations

from .recipe import Recipe
from .registry import RECIPES
from .run import run_recipe

__all__ = ["RECIPES", "Recipe", "run_recipe"]
