"""Recipes of ESD and AdvUnlearn on the UNet and of RACE for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..attacks.embedding_pgd import EmbeddingPGD
from ..attacks.soft_prompt import SoftPrompt
from ..methods import ESD, RACE, AdvUnlearn
from ..objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from ..trainer.loop import TrainingConfig
from ..trajectories.config import BankConfig
from .recipe import Recipe
from .shapes import caption_esd
from .shapes_concepts import Settings, shapes_recipes

RACE_TE_ITERATIONS = 300  # of the ESD on the text encoder that RACE begins with


def negative_guidance(retained: tuple[str, ...]) -> ESD:
    """Return the settings of ESD on the UNet for a concept of the embedded base.

    There are four departures from the paper. Captions are erased instead of the bare word. Each is erased towards the
    same caption with the anchor in the concept's place: a caption that leaves the place open draws any value, the
    concept too. Captions without the concept are retained. Batches and rates are larger, and there are fewer
    iterations.

    Args:
        retained: Captions without the concept, which are kept.
    """
    return ESD(
        component="unet",
        retain=RetainConfig(prompts=retained, weight=1.0, batch=8),
        unlearn=UnlearnConfig(batch=8, target="anchor"),
        train=TrainingConfig(iterations=150, rate=1e-3, schedule="cosine"),
        bank=BankConfig(steps=20, limit=64),
    )


def attacked_in_training(esd: ESD) -> AdvUnlearn:
    """Return the settings of AdvUnlearn on the UNet for a concept of the embedded base.

    They are those of ESD with the paper's attack, on adversarial tokens, as in ``shapes_advunlearn``. Training is
    slower: at the rate of ESD, the attack destroys what is retained.

    Args:
        esd: ESD without the attack.
    """
    return AdvUnlearn(
        component=esd.component,
        retain=esd.retain,
        unlearn=esd.unlearn,
        attack=SoftPrompt(steps=8, rate=2e-2),
        adversary=AdversaryConfig(warmup=50, tokens=(1, 2, 3)),
        train=replace(esd.train, iterations=200, rate=3e-4),
        bank=esd.bank,
    )


def attacked(start: ESD) -> RACE:
    """Return the settings of RACE after an ESD for a concept of the embedded base.

    The ball and its attack are the paper's, with half the steps. There are fewer iterations at a larger rate.

    Args:
        start: ESD that RACE begins with.
    """
    train = replace(start.train, iterations=80, rate=start.train.rate / 2)
    return RACE(start=start, attack=EmbeddingPGD(steps=5, rate=0.5), train=train)


VARIANTS: Mapping[str, Settings] = {
    "esd-unet": negative_guidance,
    "advunlearn-unet": lambda retained: attacked_in_training(negative_guidance(retained)),
    "race": lambda retained: attacked(negative_guidance(retained)),
    "race-te": lambda retained: attacked(caption_esd(retained, RACE_TE_ITERATIONS)),
}
RECIPES: Mapping[str, Callable[[], Recipe]] = {
    name: recipe
    for variant, settings in VARIANTS.items()
    for name, recipe in shapes_recipes({variant: settings}).items()
}
