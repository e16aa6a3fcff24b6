"""Recipes of SPEED, DP, TRCE's and MACE's first stages for the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..methods import DP, MACE, SPEED, TRCE
from .closed_forms import NAMES
from .recipe import Recipe
from .shapes_concepts import Settings, shapes_recipes


def embedded_settings(name: str, retained: tuple[str, ...]) -> SPEED | DP | TRCE | MACE:
    """Return the settings of a closed form for a concept of the embedded base.

    Captions are preserved. TRCE and MACE have the papers' other settings. There are these departures:

    - SPEED and DP edit captions instead of bare words, each towards the same caption with the anchor in the concept's
      place, and preserve all tokens of captions. With bare words, the concept comes back in captions.
    - DP protects only the leading 64 of 96 directions of the preserved captions, because all of them together leave
      none free. A caption's target is the caption with the anchor, without DP's first projection: the part of a caption
      in the span of few vectors would lose its colour and background.

    Args:
        name: One of ``closed_forms.NAMES``.
        retained: Captions without the concept, which are preserved.
    """
    if name == "dp":
        return DP(texts="prompts", tokens="from_last", target="anchor", preserve=retained, rank=64)
    if name == "trce":
        return TRCE(preserve=retained)
    if name == "mace":
        return MACE(preserve=retained)
    settings = SPEED(texts="prompts", tokens="from_last", kept_tokens="all", preserve=retained)
    return settings.for_component("unet" if name == "speed" else "text_encoder")


VARIANTS: Mapping[str, Settings] = {name: partial(embedded_settings, name) for name in NAMES}
RECIPES: Mapping[str, Callable[[], Recipe]] = shapes_recipes(VARIANTS)
