"""Recipes of HiRM for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods.hirm import HiRM, HiRMTrainingConfig
from ..objectives.hirm import Target
from ..worlds.shapes.concepts import CONCEPTS
from ..worlds.shapes.retain import retain_prompts
from .recipe import Recipe

TARGETS: Mapping[str, Target] = {"hirm": "random", "hirm-s": "anchor"}


def shapes_hirm(concept: str, variant: str) -> Recipe:
    """Return the recipe of HiRM for a concept of the embedded base; see ``misdirected``.

    Args:
        concept: Name of the concept.
        variant: ``hirm`` for HiRM-R, or ``hirm-s`` for HiRM-S.
    """
    settings = misdirected(TARGETS[variant], retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{variant}", concept=CONCEPTS[concept], method=settings)


def misdirected(target: Target, retained: tuple[str, ...]) -> HiRM:
    """Return the settings of HiRM for a concept of the embedded base.

    There are four departures from the paper. Captions are misdirected instead of bare words, with HiRM-S each towards
    the same caption with the anchor in the concept's place. Captions without the concept are retained. Batches take
    turns, and there are more iterations, at a rate that falls from ten times the default. The random target has a norm
    of 99, so that its entries are as large as those of the default 500 in CLIP ViT-L/14.

    Args:
        target: Kind of the target.
        retained: Captions without the concept.
    """
    return HiRM(
        target=target,
        scale=99.0 if target == "random" else None,
        texts="prompts",
        batch=32,
        retain=retained,
        retain_weight=30.0 if target == "random" else 1.0,
        retain_batch=32,
        train=HiRMTrainingConfig(iterations=200, rate=1e-3, schedule="cosine"),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    f"shapes/{concept}-{variant}": partial(shapes_hirm, concept, variant) for concept in CONCEPTS for variant in TARGETS
}
