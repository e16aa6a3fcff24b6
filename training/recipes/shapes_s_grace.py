"""Recipes of S-GRACE for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods.s_grace import SGRACE
from ..prompts.adversarial_words import AdversarialWordsConfig
from ..trainer.loop import TrainingConfig
from ..worlds.shapes.concepts import CONCEPTS
from ..worlds.shapes.retain import retain_prompts
from .recipe import Recipe


def shapes_s_grace(concept: str) -> Recipe:
    """Return the recipe of S-GRACE for a concept of the embedded base; see ``guarded``."""
    settings = guarded(retain_prompts(concept), CONCEPTS[concept].prompts)
    return Recipe(name=f"shapes/{concept}-s-grace", concept=CONCEPTS[concept], method=settings)


def guarded(retained: tuple[str, ...], related: tuple[str, ...]) -> SGRACE:
    """Return the settings of S-GRACE for a concept of an embedded base.

    There are four departures from the paper. Related words are the concept's captions, because the vocabulary of this
    world has hardly any words that are near a concept and not another one. They follow no random tokens, since captions
    have up to 14 of 22. The rate is a hundred times as high, and the parameters are held a hundredth as strongly,
    because the text encoder is small. There are more prompts and rounds, with fewer attack steps in each.

    Args:
        retained: Captions without the concept, which are kept.
        related: Captions of the concept.
    """
    attack = AdversarialWordsConfig(rows=16, random_tokens=0, words=(1, 1), refresh=1.0, steps=2)
    return SGRACE(
        retain=retained,
        related=related,
        rounds=10,
        attack=attack,
        ddim_steps=20,
        near_weight=0.003,
        train=TrainingConfig(iterations=200, rate=1e-3),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    f"shapes/{concept}-s-grace": partial(shapes_s_grace, concept) for concept in CONCEPTS
}
