"""Recipes for the shapes world that make an adapter or a projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods import RECE, SPM, UCE
from ..methods.closed_form import RidgeConfig
from ..methods.spm import SPMTrainingConfig
from ..objectives.spm import Where
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def projection(method: str, retained: tuple[str, ...]) -> UCE | RECE:
    """Return the settings of UCE or RECE for a concept of the embedded base.

    There are four departures from the papers:

    - Captions are edited instead of bare words, each towards the same caption with the anchor in the concept's place.
      With bare words, the concept comes back in captions.
    - Captions are preserved. Otherwise the concept's neighbours are erased with it.
    - RECE's lambda is 1e-3, small beside the eigenvalues of this UNet's G, which are 1 to 45. At 0.1 the derived
      embeddings shrink, and erasing them brings the concept back.
    - Preserved and erased vectors have equal weights. With the paper's weight of a tenth, attacks on red succeeded more
      often than with UCE.

    Args:
        method: ``uce`` or ``rece``.
        retained: Captions without the concept, which are preserved.
    """
    start = UCE(texts="prompts", tokens="from_last", preserve=retained)
    return (
        start
        if method == "uce"
        else RECE(start=start, epochs=1, regulariser=1e-3, weights=RidgeConfig(lamb=1.0, preserve_scale=1.0))
    )


def adapters(where: Where, retained: tuple[str, ...]) -> SPM:
    """Return the settings of SPM for a concept of the embedded base.

    There are four departures from the release. Captions are erased instead of the bare word, each towards the same
    caption with the anchor in the concept's place. Captions are anchored in addition to random conditionings. Latents
    come from the bank. Batches and rates are larger, and there are fewer iterations.

    Args:
        where: Model that gets the adapters, ``unet`` or ``text_encoder``.
        retained: Captions without the concept, which are anchored.
    """
    return SPM(
        where=where,
        batch=8,
        anchors=8,
        retain=retained,
        retain_batch=16,
        anchor_weight=10.0,
        rollout="bank",
        train=SPMTrainingConfig(iterations=300, rate=2e-3, warmup=25, cycles=1, precision="bf16"),
        bank=BankConfig(steps=20, limit=128),
    )


PROJECTIONS: Mapping[str, Settings] = {name: partial(projection, name) for name in ("uce", "rece")}
ADAPTERS: Mapping[str, Settings] = {"spm": partial(adapters, "unet"), "spm-te": partial(adapters, "text_encoder")}
RECIPES: Mapping[str, Callable[[], Recipe]] = {**shapes_recipes(PROJECTIONS), **shapes_recipes(ADAPTERS)}
