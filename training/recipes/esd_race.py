"""Recipes of ESD on the UNet and of RACE for the six published concepts on Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from robust_encoders.hub.catalog import CATALOG

from ..methods import ESD, RACE
from ..trainer.loop import TrainingConfig
from ..trainer.unet_parameters import UNetGroup, UNetSelectionConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .stable_diffusion import LICENSES, PUBLISHED_CONCEPTS, family_recipe, published_recipes


def published_group(concept: str) -> UNetGroup:
    """Return ESD's group of parameters: cross-attention for a style, everything else for nudity and objects."""
    return "x" if CATALOG[concept].erased().kind == "style" else "u"


def published_esd(concept: str, family: str) -> Recipe:
    """Return the recipe of ESD for one of the six concepts on Stable Diffusion's UNet, with the paper's settings.

    Van Gogh trains cross-attention (ESD-x). Nudity and objects train all other layers (ESD-u). There are three
    departures: the latents come from a bank (see ``BankConfig``), the UNet computes in bfloat16, and ESD-u also trains
    the time embedding and the last convolution, as the authors' newer script does. The options ``--rollout student
    --train.precision fp32`` undo the first two.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``; the paper uses Stable Diffusion 1.4, of ``sd1``.
    """
    group = published_group(concept)
    return family_recipe(f"{family}/{concept}-esd-{group}", CATALOG[concept].erased(), _published_esd(group))


def published_race(concept: str, family: str) -> Recipe:
    """Return the recipe of RACE for one of the six concepts, with the paper's settings; see ``published_esd``."""
    settings = RACE(start=_published_esd(published_group(concept)), train=TrainingConfig(precision="bf16"))
    return family_recipe(f"{family}/{concept}-race", CATALOG[concept].erased(), settings)


def _published_esd(group: UNetGroup) -> ESD:
    return ESD(
        component="unet",
        unet=UNetSelectionConfig(group=group),
        train=TrainingConfig(precision="bf16"),
        # The concept is one bare word, which needs many trajectories, see ``stable_diffusion.published``.
        bank=BankConfig(seeds=128, batch=16),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **{
        f"{family}/{concept}-esd-{published_group(concept)}": partial(published_esd, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    },
    **published_recipes(published_race, "race"),
}
