"""Default retain prompts, for users who give none: everyday objects, from this package's own list."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .concept_words import mentions

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@cache
def everyday_objects() -> tuple[str, ...]:
    """Return the objects of ``everyday_objects.txt``; that file names their source."""
    text = resources.files(__package__).joinpath("everyday_objects.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def object_prompts(concept: Concept) -> tuple[str, ...]:
    """Return the prompt "a photo of a ..." for every everyday object that no word of the concept names.

    AdvUnlearn (Zhang et al. 2024), section 4, retains such prompts for 243 objects of COCO or ImageNet, without those
    with bodies and clothes. The list here is this package's own. It was shuffled once, so its first part is as mixed as
    the whole.
    """
    named = mentions(concept.words())
    return tuple(f"a photo of {with_article(name)}" for name in everyday_objects() if not named.search(name))


def with_article(name: str) -> str:
    """Return a noun with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
