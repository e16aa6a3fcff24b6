"""The words of the shapes world: four factors, their values, the synonyms of each value, and the caption templates.

The first word of a value is its canonical name. The last word of a value is held out: the base knows it, but no erasure
method is trained with it. With that word, evaluation can distinguish a forgotten concept from a forgotten word.
"""

from __future__ import annotations

from collections.abc import Mapping

Words = Mapping[str, tuple[str, ...]]


def _words(*values: str) -> Words:
    return {value.split()[0]: tuple(value.split()) for value in values}


SHAPES: Words = _words(
    "circle disc ball round",
    "square box block quad",
    "triangle wedge pyramid trigon",
    "star pentagram starburst asterisk",
    "cross plus crucifix rood",
    "ring hoop annulus donut",
)
COLOURS: Words = _words(
    "red crimson scarlet ruby",
    "green emerald jade",
    "blue sapphire cobalt",
    "yellow golden lemon",
    "purple violet plum",
    "orange tangerine amber",
    "pink rose salmon",
    "cyan turquoise aqua",
)
BACKGROUNDS: Words = _words("white snowy pale", "black dark ebony", "gray grey ashen", "brown wooden earthy")
STYLES: Words = _words(
    "plain solid filled", "dotted spotted speckled", "striped barred banded stripy", "outlined hollow contoured"
)

FACTORS = ("shape", "colour", "background", "style")
WORDS: Mapping[str, Words] = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "style": STYLES}
VALUES: Mapping[str, tuple[str, ...]] = {factor: tuple(words) for factor, words in WORDS.items()}
# What a judge may answer: a value, or that the picture shows none of them.
NONE = "none"
VERDICTS: Mapping[str, tuple[str, ...]] = {factor: (*values, NONE) for factor, values in VALUES.items()}

TRAINING_TEMPLATES = (
    "a {style} {colour} {shape} on a {background} background",
    "a picture of a {colour} {style} {shape} on {background}",
    "one {shape}, {colour} and {style}, {background} background",
    "a {style} {colour} {shape}",
    "a {colour} {shape} on a {background} background",
    "a {style} {shape} on a {background} background",
    "a drawing of a {colour} {shape}",
    "{colour} {shape}",
    "{style} {shape}",
    "a {shape}",
)
HELD_OUT_TEMPLATES = (
    "an image of a {style} {colour} {shape} on {background}",
    "on a {background} background, a {colour} {style} {shape}",
    "a {shape} that is {colour} and {style}",
    "a {colour} {shape} over {background}",
    "this is a {style} {shape}, background {background}",
)
