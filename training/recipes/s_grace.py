"""Recipes of S-GRACE for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robust_encoders.hub.catalog import CATALOG

from ..methods.s_grace import SGRACE
from ..prompts.adversarial_words import AdversarialWordsConfig
from ..prompts.retain import object_prompts
from ..trainer.loop import TrainingConfig
from .recipe import Recipe
from .stable_diffusion import family_recipe, published_recipes


def published_s_grace(concept: str, family: str) -> Recipe:
    """Return the recipe of S-GRACE for one of the six concepts on Stable Diffusion.

    The settings are the published ones, which are others for nudity than for styles and objects. There are three
    departures: the related words come from the vocabulary, the retained objects are this package's own list, and the
    frozen UNet computes in bfloat16.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``.
    """
    erased, train = CATALOG[concept].erased(), TrainingConfig(iterations=200, precision="bf16")
    method = SGRACE(retain=object_prompts(erased), train=train)
    if erased.kind != "content":
        attack = AdversarialWordsConfig(words=(3, 20), refresh=0.15)
        method = SGRACE(retain=method.retain, attack=attack, retain_batch=8, near_weight=0.2, train=train)
    return family_recipe(f"{family}/{concept}-s-grace", erased, method)


RECIPES: Mapping[str, Callable[[], Recipe]] = published_recipes(published_s_grace, "s-grace")
