"""Concept-erasure methods by name; each has its own file."""

from __future__ import annotations

from collections.abc import Mapping

from ..plugins import Registry
from ..protocols import Method
from .ablation import Ablation
from .advunlearn import AdvUnlearn
from .des import DES
from .doco import DoCo
from .dp import DP
from .esd import ESD
from .hirm import HiRM
from .mace import MACE
from .race import RACE
from .rece import RECE
from .receler import Receler
from .s_grace import SGRACE
from .speed import SPEED
from .spm import SPM
from .trce import TRCE
from .uce import UCE

_OURS: Mapping[str, type[Method]] = {
    "ablation": Ablation,
    "advunlearn": AdvUnlearn,
    "des": DES,
    "doco": DoCo,
    "dp": DP,
    "esd": ESD,
    "hirm": HiRM,
    "mace": MACE,
    "race": RACE,
    "rece": RECE,
    "receler": Receler,
    "s_grace": SGRACE,
    "speed": SPEED,
    "spm": SPM,
    "trce": TRCE,
    "uce": UCE,
}
METHODS: Registry[type[Method]] = Registry("robust_encoders.methods", _OURS)

__all__ = [
    "DES", "DP", "ESD", "MACE", "METHODS", "RACE", "RECE", "SGRACE", "SPEED", "SPM", "TRCE", "UCE", "Ablation",
    "AdvUnlearn", "DoCo", "HiRM", "Receler",
]  # fmt: skip
