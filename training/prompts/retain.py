"""Prompts to retain where a user gives none: everyday objects, in a list of our own."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .concept_words import naming

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@cache
def everyday_objects() -> tuple[str, ...]:
    """Return the objects of ``everyday_objects.txt``, which says where they are from."""
    text = resources.files(__package__).joinpath("everyday_objects.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def object_prompts(concept: Concept) -> tuple[str, ...]:
    """Return "a photo of a ..." of every everyday object that none of the concept's words names.

    AdvUnlearn (Zhang et al. 2024), section 4, retains such prompts of 243 objects of COCO or ImageNet, those with
    bodies and clothes left out. The list here is our own; it was shuffled once, so that any first part of it is mixed.
    """
    named = naming(concept.words())
    return tuple(f"a photo of {_article(name)} {name}" for name in everyday_objects() if not named.search(name))


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"
