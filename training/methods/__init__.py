"""Concept-erasure methods by name; each has its own file."""

from __future__ import annotations

from collections.abc import Mapping

from ..plugins import Registry
from ..protocols import Method
from .ablation import Ablation
from .advunlearn import AdvUnlearn
from .des import DES
from .doco import DoCo
from .esd import ESD
from .hirm import HiRM
from .race import RACE
from .rece import RECE
from .receler import Receler
from .s_grace import SGRACE
from .spm import SPM
from .uce import UCE

_OURS: Mapping[str, type[Method]] = {
    "ablation": Ablation,
    "advunlearn": AdvUnlearn,
    "des": DES,
    "doco": DoCo,
    "esd": ESD,
    "hirm": HiRM,
    "race": RACE,
    "rece": RECE,
    "receler": Receler,
    "s_grace": SGRACE,
    "spm": SPM,
    "uce": UCE,
}
METHODS: Registry[type[Method]] = Registry("robust_encoders.methods", _OURS)

__all__ = [
    "DES", "ESD", "METHODS", "RACE", "RECE", "SGRACE", "SPM", "UCE", "Ablation", "AdvUnlearn", "DoCo", "HiRM",
    "Receler",
]  # fmt: skip
