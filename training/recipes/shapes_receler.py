"""Recipes of Receler for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..methods.receler import Receler
from ..prompts.adversarial_rows import AdversarialRowsConfig
from ..trainer.loop import TrainingConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def small_erasers(retained: tuple[str, ...]) -> Receler:
    """Return the settings of Receler for a concept of the embedded base.

    There are five departures from the paper:

    - Captions are erased instead of the bare word, each towards the same caption with the anchor in the concept's
      place. Guided away from whole captions, the erasers also changed the colours of other pictures.
    - Captions without the concept are retained. All cross-attentions of this UNet have 8 x 8 locations and a picture is
      one large shape, so the mask alone does not keep the erasers from other shapes.
    - The attack has 4 rows and 4 steps, because captions have up to 14 of 22 tokens and one thread must do.
    - Latents come from the bank.
    - The erasers have rank 16, for a width of 96 in place of 320 to 1280. Rate and batch are larger, and there are
      fewer iterations.

    Args:
        retained: Captions without the concept.
    """
    return Receler(
        rank=16,
        batch=4,
        target="anchor",
        attack=AdversarialRowsConfig(steps=4, tokens=4),
        retain=retained,
        retain_batch=8,
        rollout="bank",
        train=TrainingConfig(iterations=200, rate=2e-3, precision="bf16"),
        bank=BankConfig(steps=20, limit=128),
    )


VARIANTS: Mapping[str, Settings] = {"receler": small_erasers}
RECIPES: Mapping[str, Callable[[], Recipe]] = shapes_recipes(VARIANTS)
