"""Attacks, one file each: ``ATTACKS`` run inside a method's training, ``PROMPT_ATTACKS`` in the evaluation."""

from __future__ import annotations

from .black_box import BlackBox
from .concept_inversion import ConceptInversion
from .continuous_prefix import ContinuousPrefix
from .p4d import P4D
from .prompt_embeds import PromptEmbeds
from .random_prefix import RandomPrefix
from .ring_a_bell import RingABell
from .soft_prompt import SoftPrompt
from .torchattack import TorchAttack
from .transfer import Transfer
from .unlearn_diff_atk import UnlearnDiffAtk

ATTACKS = {"soft_prompt": SoftPrompt}
PROMPT_ATTACKS = {
    "random_prefix": RandomPrefix,
    "continuous_prefix": ContinuousPrefix,
    "unlearn_diff_atk": UnlearnDiffAtk,
    "p4d": P4D,
    "transfer": Transfer,
    "ring_a_bell": RingABell,
    "concept_inversion": ConceptInversion,
    "black_box": BlackBox,
    "prompt_embeds": PromptEmbeds,
    "torchattack": TorchAttack,
}

__all__ = [
    "ATTACKS",
    "P4D",
    "PROMPT_ATTACKS",
    "BlackBox",
    "ConceptInversion",
    "ContinuousPrefix",
    "PromptEmbeds",
    "RandomPrefix",
    "RingABell",
    "SoftPrompt",
    "TorchAttack",
    "Transfer",
    "UnlearnDiffAtk",
]
