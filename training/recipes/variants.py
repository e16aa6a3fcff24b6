"""Variants, the part of a recipe's name that differs between the recipes of one concept.

This module imports no method, so that reports can import it at low cost.
"""

from __future__ import annotations

from . import emoji_variants, shapes_variants

_SHIPPED = {
    f"{world.BASE}/{concept}": variant
    for world in (shapes_variants, emoji_variants)
    for concept, variant in world.SHIPPED.items()
}


def part_of(concept: str) -> str:
    """Return a concept's name as names of recipes have it, with underscores in place of spaces."""
    return concept.replace(" ", "_")


def variant_of(name: str, concept: str) -> str:
    """Return the variant in a recipe's name, for example ``strict`` for ``shapes/circle-strict``.

    A name such as ``shapes/circle``, of a shipped encoder, gives the shipped variant. Any other name without a variant
    gives its part after the slash.

    Args:
        name: Name of the recipe, ``base/concept-variant``; the concept in it may differ in capital letters, spaces and
            marks, as ``vangogh`` does from "Van Gogh".
        concept: Name of the concept.
    """
    end = name.rpartition("/")[2]
    places = (place for place, mark in enumerate(end) if mark == "-" and _letters(end[:place]) == _letters(concept))
    return _SHIPPED.get(name) or end[next(places, -1) + 1 :]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
