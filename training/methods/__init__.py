"""Erasers, one file each, by name."""

from __future__ import annotations

from .advunlearn import AdvUnlearn
from .des import DES
from .esd import ESD
from .rece import RECE
from .spm import SPM
from .uce import UCE

Method = AdvUnlearn | DES | ESD | RECE | SPM | UCE
METHODS: dict[str, type[AdvUnlearn] | type[DES] | type[ESD] | type[RECE] | type[SPM] | type[UCE]] = {
    "advunlearn": AdvUnlearn,
    "des": DES,
    "esd": ESD,
    "rece": RECE,
    "spm": SPM,
    "uce": UCE,
}

__all__ = ["DES", "ESD", "METHODS", "RECE", "SPM", "UCE", "AdvUnlearn", "Method"]
