"""Erasers, one file each, by name."""

from __future__ import annotations

from .advunlearn import AdvUnlearn
from .esd import ESD
from .rece import RECE
from .uce import UCE

Method = AdvUnlearn | ESD | RECE | UCE
METHODS: dict[str, type[AdvUnlearn] | type[ESD] | type[RECE] | type[UCE]] = {
    "advunlearn": AdvUnlearn,
    "esd": ESD,
    "rece": RECE,
    "uce": UCE,
}

__all__ = ["ESD", "METHODS", "RECE", "UCE", "AdvUnlearn", "Method"]
