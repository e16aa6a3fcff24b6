"""Recipes of Ablating Concepts for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ..methods import Ablation
from ..trainer.loop import TrainingConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def ablated(where: str, retained: tuple[str, ...]) -> Ablation:
    """Return the settings for a concept of the embedded base.

    There are three departures from the authors' settings. The pairs are captions of this world. The rate is larger, and
    there are more iterations, because this base is small. Retain prompts are kept. With token embeddings, their tokens
    are not trained: "scarlet" consists of tokens that "cyan" and "emerald" share. On the UNet, the target is the frozen
    model's prediction, so that the anchor cannot drift.

    Args:
        where: ``ablation`` trains the UNet, ``ablation-te`` the token embeddings of the concept's words.
        retained: Captions without the concept, which keep their predictions.
    """
    train = TrainingConfig(iterations=150, rate=1e-2, weight_decay=1e-2, clip=1.0, precision="bf16")
    bank = BankConfig(steps=20, guidance=3.0, limit=128)
    if where == "ablation-te":
        return Ablation(parameters="embedding", pictures=128, retain=retained, train=train, bank=bank)
    train = replace(train, iterations=500, rate=2e-3, schedule="cosine")
    return Ablation(target="frozen", pictures=128, retain=retained, train=train, bank=bank)


VARIANTS: Mapping[str, Settings] = {name: partial(ablated, name) for name in ("ablation", "ablation-te")}
RECIPES: Mapping[str, Callable[[], Recipe]] = shapes_recipes(VARIANTS)
