"""Variant of each concept's recipes whose encoder is shipped for the emoji world."""

from __future__ import annotations

BASE = "emoji"
SHIPPED = {"alcohol": "advunlearn", "weapon": "advunlearn", "line_art": "advunlearn"}
