"""Recipes for Stable Diffusion: the six concepts of AdvUnlearn's paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from robust_encoders.hub.catalog import CATALOG

from ..methods import RECE, SPM, UCE, AdvUnlearn
from ..objectives.config import RetainConfig
from ..prompts.retain import object_prompts
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe

PUBLISHED_CONCEPTS = ("nudity", "vangogh", "church", "garbage_truck", "parachute", "tench")
# Of the bases that a text encoder is derived from, as the Hub calls it.
LICENSES = {"sd1": "creativeml-openrail-m", "sd2": "openrail++"}
# RECE's derivation for each concept of the paper: its lambda, and the epochs after which its authors stopped. Where it
# has none (tench), plain UCE drew the object no more, and the authors ran no RECE.
DERIVATIONS = {
    "nudity": (1e-1, 3),
    "vangogh": (1e-3, 1),
    "church": (1e-3, 1),
    "garbage_truck": (1e-3, 1),
    "parachute": (1e-1, 1),
}


def published(concept: str, family: str) -> Recipe:
    """AdvUnlearn of one of the paper's six concepts on Stable Diffusion, with its settings.

    Nudity trains every layer and weighs retention by 0.3; styles and objects train layer 0 alone and weigh it by 0.5.
    Departures: the latents come from a bank (see ``BankConfig``), the frozen UNet computes in bfloat16, and the
    retained objects are our own list. ``--bank.mode fresh --train.precision fp32`` undoes the
    first two.

    Args:
        concept: Its name in the catalog.
        family: ``sd1`` or ``sd2``; the paper's is Stable Diffusion 1.4.
    """
    erased = CATALOG[concept].erased()
    everywhere = erased.kind == "content"
    method = AdvUnlearn(
        retain=RetainConfig(prompts=object_prompts(erased), weight=0.3 if everywhere else 0.5),
        select=SelectionConfig() if everywhere else SelectionConfig(layers=(0,), final_norm=False),
        train=TrainingConfig(precision="bf16"),
        # The concept is one bare word, drawn 31 times an iteration: 128 runs of it are 6,400 points. A retained object
        # is drawn 18 times in all, for which one run of 50 points is enough.
        bank=BankConfig(seeds=(128, 1), batch=16),
    )
    name = f"{family}/{concept}"
    return Recipe(name=name, concept=erased, method=method, base=family, license=LICENSES[family])


def published_closed(concept: str, family: str, method: str) -> Recipe:
    """UCE or RECE of one of the six concepts on Stable Diffusion; see ``published_projection``."""
    settings = published_projection(method, concept)
    name, license = f"{family}/{concept}-{method}", LICENSES[family]
    return Recipe(name=name, concept=CATALOG[concept].erased(), method=settings, base=family, license=license)


def published_projection(method: str, name: str) -> UCE | RECE:
    """Return the papers' settings for one of the six published concepts.

    UCE's are those of its code of 2025. For RECE's style the authors preserve a list of 1,734 artists, which is not
    ours to ship: give it as retain prompts.

    Args:
        method: ``uce`` or ``rece``.
        name: Of the concept, in the catalog.

    Raises:
        ValueError: The paper ran no RECE for it.
    """
    if method == "uce":
        return UCE()
    if name not in DERIVATIONS:
        raise ValueError(f"expected a concept that RECE was run for ({', '.join(DERIVATIONS)}), found {name!r}")
    regulariser, epochs = DERIVATIONS[name]
    return RECE(regulariser=regulariser, epochs=epochs)


def published_spm(concept: str, family: str) -> Recipe:
    """SPM of one of the six concepts on Stable Diffusion, on the UNet, with its release's settings."""
    name, license = f"{family}/{concept}-spm", LICENSES[family]
    return Recipe(name=name, concept=CATALOG[concept].erased(), method=SPM(), base=family, license=license)


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
    **{
        f"{family}/{concept}-spm": partial(published_spm, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    },
}
