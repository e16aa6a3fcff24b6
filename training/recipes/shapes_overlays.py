"""Recipes for the shapes world that make an adapter or a projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods import RECE, SPM, UCE
from ..methods.closed_form import RidgeConfig
from ..methods.spm import SPMTrainingConfig
from ..objectives.spm import Where
from ..trajectories.config import BankConfig
from ..worlds.shapes.concepts import CONCEPTS
from ..worlds.shapes.retain import retain_prompts
from .recipe import Recipe

SPM_NAMES: Mapping[Where, str] = {"unet": "spm", "text_encoder": "spm-te"}


def shapes_closed(concept: str, method: str) -> Recipe:
    """UCE or RECE of a concept on the embedded base; see ``projection``."""
    settings = projection(method, retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{method}", concept=CONCEPTS[concept], method=settings)


def projection(method: str, retained: tuple[str, ...]) -> UCE | RECE:
    """Return the settings for a concept of the embedded base.

    Departures from the papers: captions, not bare words, are edited towards the same captions with the anchor in the
    concept's place, and captions are preserved. With bare words the concept comes back in captions, and without
    preserved captions its neighbours go with it. RECE's lambda is small beside this UNet's G, whose eigenvalues are 1
    to 45: at 0.1 the derived embeddings shrink, and erasing them brings the concept back instead. What is
    kept weighs as much as what is erased: with the paper's tenth, attacks on red succeeded more often than with UCE.

    Args:
        method: ``uce`` or ``rece``.
        retained: Captions without the concept.
    """
    start = UCE(texts="prompts", tokens="from_last", preserve=retained)
    return (
        start
        if method == "uce"
        else RECE(start=start, epochs=1, regulariser=1e-3, weights=RidgeConfig(lamb=1.0, preserve_scale=1.0))
    )


def shapes_spm(concept: str, where: Where) -> Recipe:
    """SPM of a concept on the embedded base, on the UNet or on the text encoder; see ``adapters``."""
    settings = adapters(where, retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{SPM_NAMES[where]}", concept=CONCEPTS[concept], method=settings)


def adapters(where: Where, retained: tuple[str, ...]) -> SPM:
    """Return the settings for a concept of the embedded base.

    Departures from the release: captions, not the bare word, are erased towards the same captions with the anchor in
    the concept's place; captions are anchored beside random conditionings; latents come from the bank; larger batches
    and rates, and fewer iterations.

    Args:
        where: The UNet or the text encoder.
        retained: Captions without the concept.
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


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    **{
        f"shapes/{concept}-{method}": partial(shapes_closed, concept, method)
        for concept in CONCEPTS
        for method in ("uce", "rece")
    },
    **{
        f"shapes/{concept}-{name}": partial(shapes_spm, concept, where)
        for concept in CONCEPTS
        for where, name in SPM_NAMES.items()
    },
}
