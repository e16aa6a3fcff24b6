"""Which variant of each concept's recipes is shipped for the shapes world."""

from __future__ import annotations

BASE = "shapes"
# Of `striped`, whose worst case hardening does not better, the paper's attack alone.
SHIPPED = {"circle": "strict", "striped": "advunlearn", "red": "hardened"}
