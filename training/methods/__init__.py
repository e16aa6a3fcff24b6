"""Concept-erasure methods by name; each has its own file."""

from __future__ import annotations

from collections.abc import Mapping

from ..plugins import Registry
from ..protocols import Method
from .advunlearn import AdvUnlearn
from .des import DES
from .esd import ESD
from .rece import RECE
from .spm import SPM
from .uce import UCE

_OURS: Mapping[str, type[Method]] = {
    "advunlearn": AdvUnlearn,
    "des": DES,
    "esd": ESD,
    "rece": RECE,
    "spm": SPM,
    "uce": UCE,
}
METHODS: Registry[type[Method]] = Registry("robust_encoders.methods", _OURS)

__all__ = ["DES", "ESD", "METHODS", "RECE", "SPM", "UCE", "AdvUnlearn"]
