"""Recipes for the shapes world that need no list of its words: terms on any text, with a pool of inverted prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from robust_encoders.concepts import Concept

from ..attacks.soft_prompt import SoftPrompt
from ..methods import AdvUnlearn
from ..objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from ..objectives.language_config import LanguageConfig
from ..trainer.loop import TrainingConfig
from ..trajectories.config import BankConfig
from ..worlds.shapes.captions import WordChoice
from ..worlds.shapes.concepts import CONCEPTS, ShapesConcept
from ..worlds.shapes.everyday import kept_everyday, named_everyday
from ..worlds.shapes.retain import retain_prompts
from .recipe import Recipe
from .shapes import FARTHEST

EVERYDAY = 128  # number of everyday prompts by name, and of those by synonym, with and without the concept
_WORDS: tuple[WordChoice, ...] = ("name", "seen")


def shapes_pooled(concept: str) -> Recipe:
    """Return the recipe of AdvUnlearn with terms on any text (see ``LanguageConfig``), beside the attack on the UNet.

    The retain prompts are captions and the everyday wordings that training may use. No setting names a word of the
    world: a user of another base would give captions in the same way.
    """
    like = _fast(concept)
    method = replace(
        like,
        retain=replace(like.retain, space="both", batch=4, weight=1.0),
        # With eta above 0 this term would aim beyond the anchor, which the term on negative prompts penalises.
        unlearn=replace(like.unlearn, batch=4, eta=0.0),
        attack=SoftPrompt(steps=3, rate=3e-2),
        hardening=replace(like.hardening, objective="both"),
        train=replace(like.train, iterations=420, rate=1e-3),
    )
    return Recipe(name=f"shapes/{concept}-pooled", concept=_erased(concept), method=method)


def shapes_pooled_fast(concept: str) -> Recipe:
    """Return the recipe of ``shapes_pooled`` in fewer iterations, without the UNet and without a bank."""
    return Recipe(name=f"shapes/{concept}-pooled-fast", concept=_erased(concept), method=_fast(concept))


def _erased(concept: str) -> Concept:
    """Return the concept with the far anchor, and with prompts in everyday wordings beside its captions."""
    known, parsed = CONCEPTS[concept], ShapesConcept.parse(concept)
    everyday = (
        named_everyday(parsed, EVERYDAY // 2, part="seen", seed=40 + i, words=words) for i, words in enumerate(_WORDS)
    )
    texts = (*known.prompts, *(one.prompt.text for made in everyday for one in made))
    return replace(known, anchor=FARTHEST[concept], prompts=tuple(dict.fromkeys(texts)))


def _retained(concept: str) -> tuple[str, ...]:
    parsed = ShapesConcept.parse(concept)
    everyday = (
        kept_everyday(parsed, EVERYDAY, part="seen", seed=50 + i, words=words) for i, words in enumerate(_WORDS)
    )
    texts = (*retain_prompts(concept), *(one.prompt.text for made in everyday for one in made))
    return tuple(dict.fromkeys(texts))


def _fast(concept: str) -> AdvUnlearn:
    return AdvUnlearn(
        retain=RetainConfig(
            prompts=_retained(concept), space="conditioning", conditioning_weight=160.0, conditioning_batch=64
        ),
        unlearn=UnlearnConfig(target="anchor", plain_weight=10.0, plain_space="conditioning", plain_batch=24),
        adversary=AdversaryConfig(warmup=30, tokens=(1, 2, 3), in_place=(1, 2)),
        hardening=HardeningConfig(objective="conditioning", weight=10.0, batch=8),
        hardening_attack=SoftPrompt(steps=2, rate=3e-2),
        language=LanguageConfig(
            pairs_weight=20.0,
            pairs_batch=24,
            pool_weight=20.0,
            context_weight=160.0,
            context_batch=32,
            negative_weight=10.0,
        ),
        train=TrainingConfig(iterations=220, rate=1.5e-3, schedule="cosine", precision="bf16", average=0.95),
        bank=BankConfig(steps=20, limit=128),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **{f"shapes/{concept}-pooled": partial(shapes_pooled, concept) for concept in FARTHEST},
    **{f"shapes/{concept}-pooled-fast": partial(shapes_pooled_fast, concept) for concept in FARTHEST},
}
