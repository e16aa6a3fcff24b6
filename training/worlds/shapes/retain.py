"""Retain prompts of the shapes world, captions whose meaning an erasure method keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...prompts.concept_words import mentions
from .captions import scene_prompts
from .concepts import all_words, factor_of
from .vocabulary import VALUES

RETAIN_PROMPTS = 512


def retain_prompts(concept: str, n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return n / 2 to n different captions without the concept, from templates and words that training may use.

    Half of the drawn captions state a neighbour, another value of the concept's factor, each equally often. Erasure
    damages neighbours first. Names and synonyms are equally frequent. Held-out templates and words never occur.

    Args:
        concept: Name of the concept.
        n: Number of captions drawn; repeated ones are dropped.
    """
    factor, value = factor_of(concept)
    words: tuple[Literal["name", "seen"], ...] = ("name", "seen")
    neighbours = [{factor: other} for other in VALUES[factor] if other != value]
    pools = [
        scene_prompts(n // 4, seed=10 + i, exclude={factor: value}, words=choice, templates="training")
        for i, choice in enumerate(words)
    ]
    pools += [
        scene_prompts(n // 4 // len(neighbours), seed=20 + 2 * j + i, fixed=fixed, words=choice, templates="training")
        for j, fixed in enumerate(neighbours)
        for i, choice in enumerate(words)
    ]
    # The pools take turns, so any first part of the list is as mixed as the whole.
    longest = max(map(len, pools))
    ordered = [pool[i].text for i in range(longest) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))


def retain_prompts_of_all(concepts: Sequence[str], n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return at most n captions that name none of several concepts, taken from the lists of all concepts in turn."""
    named = mentions(word for concept in concepts for word in all_words(concept))
    pools = [[text for text in retain_prompts(concept, n) if not named.search(text)] for concept in concepts]
    # The lists take turns, as above.
    ordered = [pool[i] for i in range(max(map(len, pools))) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))[:n]
