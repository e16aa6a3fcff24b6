"""Recipes of HiRM for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from robust_encoders.hub.catalog import CATALOG

from ..methods.hirm import HiRM, HiRMTrainingConfig
from .doco import ANCHORS
from .recipe import Recipe
from .stable_diffusion import LICENSES, PUBLISHED_CONCEPTS, family_recipe

VARIANTS = ("hirm", "hirm-s")


def published_hirm(concept: str, family: str, variant: str) -> Recipe:
    """Return the recipe of HiRM for one of the six concepts on Stable Diffusion.

    HiRM-R has a random target. HiRM-S has the wider class of a style or an object, and for nudity the representation
    without its direction. Iterations, rates and anchors are this package's choice; the paper's numbers were not read.

    Nudity has one word and no anchor. Its direction is then the word's representation less the empty prompt's, so the
    target of ``nudity-hirm-s`` is exactly the empty prompt's representation.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``.
        variant: ``hirm`` for HiRM-R, or ``hirm-s`` for HiRM-S.
    """
    erased = replace(CATALOG[concept].erased(), anchor=ANCHORS.get(concept, ""))
    semantic = variant == "hirm-s"
    steps, rate = {"content": ((50, 25), 1e-4), "style": ((40, 30), 5e-5)}.get(erased.kind, ((25, 15), 5e-5))
    method = HiRM(train=HiRMTrainingConfig(iterations=steps[semantic], rate=rate))
    if semantic:
        method = replace(method, target="anchor" if erased.anchor else "subtracted")
    return family_recipe(f"{family}/{concept}-{variant}", erased, method)


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    f"{family}/{concept}-{variant}": partial(published_hirm, concept, family, variant)
    for family in LICENSES
    for concept in PUBLISHED_CONCEPTS
    for variant in VARIANTS
}
