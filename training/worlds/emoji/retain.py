"""Retain prompts of the emoji world, captions whose meaning an erasure method keeps."""

from __future__ import annotations

from collections.abc import Sequence

from ...prompts.concept_words import mentions
from .captions import EmojiPrompt, prompts
from .concepts import TRAINING_FRAMES, EmojiConcept, emoji_concept
from .things import Things, WordChoice, load_things

RETAIN_PROMPTS = 512


def retain_prompts(names: Sequence[str], things: Things | None = None, n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return at most n different captions that mention none of the concepts.

    Half of the drawn captions name neighbours of the concepts, as far as there are some. Half of them use further
    names, where a thing has some. Held-out words and wordings never occur, and neither do things on the border.

    Args:
        names: Names of the concepts.
        things: Things of the world; None takes the packaged list.
        n: Number of captions.

    Raises:
        ValueError: If the world has no such concept.
    """
    known = things or load_things()
    concepts = [emoji_concept(name, known) for name in names]
    said = mentions(word for concept in concepts for word in concept.unspoken(known))
    choices: tuple[WordChoice, ...] = ("name", "seen")
    pools = []
    for seed, words in enumerate(choices):
        near = [_near(concept, known, n, 10 + seed, words) for concept in concepts if concept.neighbours]
        far = prompts(known, n, seed=20 + seed, words=words, frames=TRAINING_FRAMES)
        pools += [[prompt.text for prompt in pool] for pool in (*near, far)]
    # The pools take turns, so any first part of the list is as mixed as the whole.
    ordered = (pool[i] for i in range(max(map(len, pools))) for pool in pools if i < len(pool))
    return tuple(dict.fromkeys(text for text in ordered if not said.search(text)))[:n]


def _near(concept: EmojiConcept, things: Things, n: int, seed: int, words: WordChoice) -> list[EmojiPrompt]:
    """Return captions that name the neighbours of a concept."""
    return prompts(things, n, seed=seed, words=words, frames=TRAINING_FRAMES, fixed={concept.label: concept.neighbours})
