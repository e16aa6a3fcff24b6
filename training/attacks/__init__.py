"""Attacks, one file each: those in ``INNER_ATTACKS`` run inside a training, those in ``ATTACKS`` in an evaluation."""

from __future__ import annotations

from ..plugins import Registry
from ..protocols import Attack, InnerAttack
from .black_box import BlackBox
from .concept_inversion import ConceptInversion
from .conditioning_inversion import ConditioningInversion
from .continuous_prefix import ContinuousPrefix
from .embedding_pgd import EmbeddingPGD
from .img2img import Img2Img
from .latent_inversion import LatentInversion
from .mechanism import Mechanism
from .none import NoAttack
from .p4d import P4D
from .paraphrase import Paraphrase
from .prompt_embeds import PromptEmbeds
from .random_prefix import RandomPrefix
from .ring_a_bell import RingABell
from .soft_prompt import SoftPrompt
from .synonyms import Synonyms
from .torchattack import TorchAttack
from .transfer import Transfer
from .unlearn_diff_atk import UnlearnDiffAtk
from .word_swap import WordSwap

_INNER: dict[str, type[InnerAttack]] = {"embedding_pgd": EmbeddingPGD, "soft_prompt": SoftPrompt}
INNER_ATTACKS: Registry[type[InnerAttack]] = Registry("robust_encoders.inner_attacks", _INNER)
_OURS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "synonyms": Synonyms,
    "random_prefix": RandomPrefix,
    "continuous_prefix": ContinuousPrefix,
    "unlearn_diff_atk": UnlearnDiffAtk,
    "p4d": P4D,
    "mechanism": Mechanism,
    "transfer": Transfer,
    "ring_a_bell": RingABell,
    "concept_inversion": ConceptInversion,
    "conditioning_inversion": ConditioningInversion,
    "paraphrase": Paraphrase,
    "word_swap": WordSwap,
    "black_box": BlackBox,
    "img2img": Img2Img,
    "latent_inversion": LatentInversion,
    "prompt_embeds": PromptEmbeds,
    "torchattack": TorchAttack,
}
ATTACKS: Registry[type[Attack]] = Registry("robust_encoders.attacks", _OURS)

__all__ = [
    "ATTACKS",
    "INNER_ATTACKS",
    "P4D",
    "BlackBox",
    "ConceptInversion",
    "ConditioningInversion",
    "ContinuousPrefix",
    "EmbeddingPGD",
    "Img2Img",
    "LatentInversion",
    "Mechanism",
    "NoAttack",
    "Paraphrase",
    "PromptEmbeds",
    "RandomPrefix",
    "RingABell",
    "SoftPrompt",
    "Synonyms",
    "TorchAttack",
    "Transfer",
    "UnlearnDiffAtk",
    "WordSwap",
]
