"""Captions of the shapes world that an eraser keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...prompts.concept_words import naming
from .captions import scene_prompts
from .concepts import all_words, factor_of
from .vocabulary import VALUES

RETAIN_PROMPTS = 512


def retain_prompts(concept: str, n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return at least half of n different captions of the shapes world without the concept, in words training may see.

    Half of them go through the neighbours, the other values of the concept's factor, evenly: those are what an eraser
    damages first. Names and synonyms take turns. Held-out templates and words never occur.
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
    # Round robin over the pools, so that any first part of the list is as mixed as the whole.
    longest = max(map(len, pools))
    ordered = [pool[i].text for i in range(longest) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))


def retain_prompts_of_all(concepts: Sequence[str], n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return captions of the shapes world with none of several concepts, near the first as near the last."""
    named = naming(word for concept in concepts for word in all_words(concept))
    pools = [[text for text in retain_prompts(concept, n) if not named.search(text)] for concept in concepts]
    # Round robin, as above.
    ordered = [pool[i] for i in range(max(map(len, pools))) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))[:n]
