"""Variants, the part of a recipe's name that differs between the recipes of one concept.

This module imports no method, so that reports can import it at low cost.
"""

from __future__ import annotations

from .shapes_variants import BASE, SHIPPED

_SHIPPED = {f"{BASE}/{concept}": variant for concept, variant in SHIPPED.items()}


def variant_of(name: str, concept: str) -> str:
    """Return the variant in a recipe's name, for example ``strict`` for ``shapes/circle-strict``.

    A name such as ``shapes/circle``, of a shipped encoder, gives the shipped variant. Any other name without a variant
    gives its part after the slash.

    Args:
        name: Name of the recipe, ``base/concept-variant``.
        concept: Name of the concept.
    """
    return _SHIPPED.get(name) or name.rpartition("/")[2].removeprefix(f"{concept}-")
