"""Erasers, one file each, by name."""

from __future__ import annotations

from .advunlearn import AdvUnlearn
from .esd import ESD
from .rece import RECE
from .spm import SPM
from .uce import UCE

Method = AdvUnlearn | ESD | RECE | SPM | UCE
METHODS: dict[str, type[AdvUnlearn] | type[ESD] | type[RECE] | type[SPM] | type[UCE]] = {
    "advunlearn": AdvUnlearn,
    "esd": ESD,
    "rece": RECE,
    "spm": SPM,
    "uce": UCE,
}

__all__ = ["ESD", "METHODS", "RECE", "SPM", "UCE", "AdvUnlearn", "Method"]
