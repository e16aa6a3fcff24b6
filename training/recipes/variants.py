"""What tells the recipes of one concept apart; imports no method, so that reports can read it."""

from __future__ import annotations

from .shapes_variants import BASE, SHIPPED

_SHIPPED = {f"{BASE}/{concept}": variant for concept, variant in SHIPPED.items()}


def variant_of(name: str, concept: str) -> str:
    """Return what tells a recipe apart from the others of its concept, ``strict`` of ``shapes/circle-strict``.

    A concept that is shipped stands for the variant that is shipped; a name without a variant stays as it is.

    Args:
        name: Name of the recipe, ``base/concept-variant``.
        concept: Name of the concept.
    """
    return _SHIPPED.get(name) or name.rpartition("/")[2].removeprefix(f"{concept}-")
