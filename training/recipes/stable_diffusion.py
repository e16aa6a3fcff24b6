"""Recipes for Stable Diffusion: the six concepts of AdvUnlearn's paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from robust_encoders.concepts import Concept
from robust_encoders.hub.catalog import CATALOG

from ..methods import RECE, SPM, UCE, AdvUnlearn
from ..objectives.config import RetainConfig
from ..prompts.retain import object_prompts
from ..protocols import Method
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe

PUBLISHED_CONCEPTS = ("nudity", "vangogh", "church", "garbage_truck", "parachute", "tench")
# Licence of each family of bases, and so of the text encoders derived from it, by the Hub's identifier.
LICENSES = {"sd1": "creativeml-openrail-m", "sd2": "openrail++"}
# RECE's lambda for each concept of its paper, and the number of epochs after which its authors stopped. `tench` is
# missing: UCE alone erased it, so the authors did not run RECE.
DERIVATIONS = {
    "nudity": (1e-1, 3),
    "vangogh": (1e-3, 1),
    "church": (1e-3, 1),
    "garbage_truck": (1e-3, 1),
    "parachute": (1e-1, 1),
}


def family_recipe(name: str, concept: Concept, method: Method) -> Recipe:
    """Return a recipe for a family of Stable Diffusion, with the family's licence.

    Args:
        name: Name of the recipe, such as ``sd1/church``; the family stands before the slash.
        concept: Concept to erase.
        method: Method with all its settings.
    """
    family = name.partition("/")[0]
    return Recipe(name=name, concept=concept, method=method, base=family, license=LICENSES[family])


def published_recipes(make: Callable[[str, str], Recipe], variant: str) -> dict[str, Callable[[], Recipe]]:
    """Return a recipe of a variant for each of the six concepts and each family, by name.

    Args:
        make: Function from a concept's name in the catalog and a family to the recipe.
        variant: Variant of the recipes.
    """
    return {
        f"{family}/{concept}-{variant}": partial(make, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    }


def published(concept: str, family: str) -> Recipe:
    """Return the recipe of AdvUnlearn for one of the paper's six concepts on Stable Diffusion, with its settings.

    Nudity trains every layer and weighs retention by 0.3. Styles and objects train only layer 0 and weigh retention by
    0.5. There are three departures: the latents come from a bank (see ``BankConfig``), the frozen UNet computes in
    bfloat16, and the retained objects are this package's own list. The options ``--bank.mode fresh --train.precision
    fp32`` undo the first two.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``; the paper uses Stable Diffusion 1.4, of ``sd1``.
    """
    erased = CATALOG[concept].erased()
    everywhere = erased.kind == "content"
    method = AdvUnlearn(
        retain=RetainConfig(prompts=object_prompts(erased), weight=0.3 if everywhere else 0.5),
        select=SelectionConfig() if everywhere else SelectionConfig(layers=(0,), final_norm=False),
        train=TrainingConfig(precision="bf16"),
        # The concept is one bare word and needs many trajectories: it is drawn 31 times in each iteration, and 128
        # trajectories of 50 steps give 6,400 points. A retained object is drawn about 18 times in the whole training,
        # so one trajectory of 50 points is enough.
        bank=BankConfig(seeds=(128, 1), batch=16),
    )
    return family_recipe(f"{family}/{concept}", erased, method)


def published_closed(concept: str, family: str, method: str) -> Recipe:
    """Return the recipe of UCE or RECE for one of the six concepts; see ``published_projection``."""
    settings = published_projection(method, concept)
    return family_recipe(f"{family}/{concept}-{method}", CATALOG[concept].erased(), settings)


def published_projection(method: str, name: str) -> UCE | RECE:
    """Return the papers' settings of UCE or RECE for one of the six published concepts.

    UCE's settings are those of its code of 2025. For the style, RECE's authors preserve a list of 1,734 artists, which
    this package may not ship. Give it as retain prompts.

    Args:
        method: ``uce`` or ``rece``.
        name: Name of the concept in the catalog.

    Raises:
        ValueError: If the paper did not run RECE for the concept.
    """
    if method == "uce":
        return UCE()
    if name not in DERIVATIONS:
        raise ValueError(f"expected a concept that RECE was run for ({', '.join(DERIVATIONS)}), found {name!r}")
    regulariser, epochs = DERIVATIONS[name]
    return RECE(regulariser=regulariser, epochs=epochs)


def published_spm(concept: str, family: str) -> Recipe:
    """Return the recipe of SPM for one of the six concepts on Stable Diffusion's UNet, with its release's settings."""
    return family_recipe(f"{family}/{concept}-spm", CATALOG[concept].erased(), SPM())


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **{
        f"{family}/{concept}": partial(published, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    },
    **{
        f"{family}/{concept}-{method}": partial(published_closed, concept, family, method)
        for family in LICENSES
        for method, concepts in (("uce", PUBLISHED_CONCEPTS), ("rece", tuple(DERIVATIONS)))
        for concept in concepts
    },
    **published_recipes(published_spm, "spm"),
}
