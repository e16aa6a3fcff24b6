"""Erasers, one file each, by name."""

from __future__ import annotations

from .advunlearn import AdvUnlearn
from .esd import ESD

METHODS = {"advunlearn": AdvUnlearn, "esd": ESD}

__all__ = ["ESD", "METHODS", "AdvUnlearn"]
