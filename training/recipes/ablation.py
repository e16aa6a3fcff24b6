"""Recipes of Ablating Concepts for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from robust_encoders.concepts import Concept
from robust_encoders.hub.catalog import CATALOG

from ..methods.ablation import Ablation, scaled_rate
from ..trainer.loop import TrainingConfig
from .recipe import Recipe
from .stable_diffusion import family_recipe, published_recipes

# Anchors of the objects that AdvUnlearn's paper erases. The authors of Ablating Concepts erase other objects.
ANCHORS = {"church": "house", "garbage_truck": "truck", "parachute": "balloon", "tench": "fish"}


def trained(iterations: int, rate: float, *, batch: int, prior: bool) -> TrainingConfig:
    """Return AdamW's settings of the authors' recipes, with the effective learning rate; see ``scaled_rate``."""
    return TrainingConfig(
        iterations=iterations, rate=scaled_rate(rate, batch, prior=prior), weight_decay=1e-2, clip=1.0
    )


def object_settings(*, prior: bool = False) -> Ablation:
    """Return the authors' settings for an object, or with ``prior`` those for an object whose anchor is in its name."""
    return Ablation(prior_weight=float(prior), train=trained(100, 2e-6, batch=8, prior=prior))


def nudity_settings() -> Ablation:
    """Return the authors' settings for nudity: every attention, the prior, and 400 iterations.

    The anchor's pictures are drawn with the concept as negative prompt. The authors' later advice on anchors is
    followed: people, but no bodies.
    """
    return Ablation(parameters="attn", avoid=True, prior_weight=1.0, train=trained(400, 4e-6, batch=8, prior=True))


def memorised_settings(paraphrases: tuple[str, ...]) -> Ablation:
    """Return the authors' settings for a memorised picture, whose caption is the concept's name.

    The authors state two pictures per GPU; two GPUs are assumed, as in their other recipes. They leave out paraphrases
    whose pictures resemble the memorised one by SSCD, a network for copy detection. Here that choice is the user's.

    Args:
        paraphrases: Paraphrases of the caption, which give other pictures.
    """
    return Ablation(
        parameters="full-weight",
        anchor_prompts=paraphrases,
        pairs="caption",
        batch=4,
        prior_weight=1.0,
        train=trained(400, 5e-7, batch=4, prior=True),
    )


def published_ablation(concept: str, family: str) -> Recipe:
    """Return the recipe for one of AdvUnlearn's six concepts on Stable Diffusion's UNet, with the authors' settings.

    Objects get an anchor of this package's choice. The name of the garbage truck has its anchor, so it trains the
    prior, too.
    """
    erased = CATALOG[concept].erased()
    method = Ablation()
    if erased.kind == "content":
        erased, method = _nude(erased), nudity_settings()
    elif erased.kind == "object":
        erased = replace(erased, anchor=ANCHORS[concept])
        method = object_settings(prior=erased.anchor in erased.name)
    return family_recipe(f"{family}/{concept}-ablation", erased, method)


def _nude(erased: Concept) -> Concept:
    """Return the concept with the words that the authors erase together."""
    return replace(erased, synonyms=tuple(dict.fromkeys((*erased.synonyms, "nsfw"))))


RECIPES: Mapping[str, Callable[[], Recipe]] = published_recipes(published_ablation, "ablation")
