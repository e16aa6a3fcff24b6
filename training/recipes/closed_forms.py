"""Recipes of SPEED, DP, TRCE's and MACE's first stages for the six published concepts on Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from robust_encoders.concepts import Concept
from robust_encoders.hub.catalog import CATALOG

from ..methods import DP, MACE, SPEED, TRCE
from ..prompts.retain import object_prompts
from ..types import Component
from .recipe import Recipe
from .stable_diffusion import LICENSES, PUBLISHED_CONCEPTS, family_recipe

NAMES = ("speed", "speed-te", "dp", "trce", "mace")


def published_closed_form(concept: str, family: str, name: str) -> Recipe:
    """Return the recipe of a closed form for one of the six published concepts.

    The settings are the papers'. There is one departure: 30,000 captions of COCO (TRCE, MACE) and lists of related
    concepts (SPEED, DP) are preserved there. Here these are this package's everyday objects; give others as retain
    prompts.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``.
        name: One of ``NAMES``; ``speed-te`` is this package's variant of SPEED on the text encoder's output.
    """
    erased = CATALOG[concept].erased()
    return family_recipe(f"{family}/{concept}-{name}", erased, _settings(name, erased))


def _settings(name: str, concept: Concept) -> SPEED | DP | TRCE | MACE:
    kept = object_prompts(concept)
    if name == "dp":
        return DP(preserve=kept)
    if name == "trce":
        return TRCE(preserve=kept)
    if name == "mace":
        return MACE(preserve=kept, preserve_scale=0.021) if concept.kind == "content" else MACE(preserve=kept)
    component: Component = "unet" if name == "speed" else "text_encoder"
    if concept.kind == "content":
        return SPEED(preserve=kept, tokens="after_start", retain_scale=0.7, lamb=0.5).for_component(component)
    return SPEED(preserve=kept).for_component(component)


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    f"{family}/{concept}-{name}": partial(published_closed_form, concept, family, name)
    for family in LICENSES
    for concept in PUBLISHED_CONCEPTS
    for name in NAMES
}
