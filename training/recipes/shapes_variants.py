"""Variant of each concept's recipes whose encoder is shipped for the shapes world."""

from __future__ import annotations

BASE = "shapes"
# `striped` is shipped with the paper's attack only, because hardening does not improve its worst case.
SHIPPED = {"circle": "strict", "striped": "advunlearn", "red": "hardened"}
