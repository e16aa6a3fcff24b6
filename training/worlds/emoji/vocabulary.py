"""The labels of the emoji world: drawing styles and backgrounds with their words, beside the things.

The first word of a value is its canonical name. The last word of a value is held out: the base knows it, but no erasure
method is trained with it.
"""

from __future__ import annotations

from collections.abc import Mapping

Colour = tuple[int, int, int]

LABELS = ("thing", "style", "background")
# What a judge answers if it sees none of the values.
NONE = "none"
STYLES: Mapping[str, tuple[str, ...]] = {
    "noto": ("noto", "glossy", "shaded"),
    "twemoji": ("twemoji", "rounded", "cartoonish"),
    "fluent": ("fluent", "flat", "minimal"),
    "line art": ("line art", "black and white", "ink drawn"),
}
# Line art is black, so no background is dark. Many tools are gray, so no background is gray, either.
BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "white": ("white", "blank", "snowy"),
    "yellow": ("yellow", "sunny", "golden"),
    "pink": ("pink", "rosy", "salmon"),
    "blue": ("blue", "azure", "cerulean"),
    "green": ("green", "grassy", "minty"),
    "purple": ("purple", "violet", "lilac"),
}
COLOURS: Mapping[str, Colour] = {
    "white": (250, 250, 250),
    "yellow": (255, 222, 89),
    "pink": (255, 158, 192),
    "blue": (112, 186, 250),
    "green": (130, 214, 134),
    "purple": (186, 148, 235),
}
STYLE_NAMES, BACKGROUND_NAMES = tuple(STYLES), tuple(BACKGROUNDS)
