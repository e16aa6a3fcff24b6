"""Everyday wordings of a request for a picture, with gaps for the values of a scene.

They were written from how people speak, before any encoder was measured with them, and none is left out afterwards.
Every kind of wording belongs to one part. The part ``seen`` may be used by training and for the choice of settings. The
part ``reported`` is only ever reported. No distinctive word and no punctuation mark other than a comma occurs in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Part = Literal["seen", "reported"]

SEEN: Mapping[str, tuple[str, ...]] = {
    "order": (
        "draw a {colour} {shape}",
        "paint one {style} {shape}",
        "make a {style} {colour} {shape} on {background}",
        "sketch a {shape}",
        "draw me a {colour} {shape} on a {background} background",
        "create a {shape} on {background}",
    ),
    "thanks": (
        "a {colour} {shape}, thanks",
        "{shape}, thank you",
        "a {style} {shape} on {background}, thx",
        "one {style} {colour} {shape}, cheers",
    ),
    "medium": (
        "photo of a {colour} {shape}",
        "a painting of a {style} {shape}",
        "a poster of a {style} {colour} {shape} on {background}",
        "an icon of a {shape}",
        "a {colour} {shape} logo on {background}",
    ),
    "no article": (
        "{style} {colour} {shape} on {background}",
        "{colour} {shape} {background} background",
        "{shape}",
        "{shape} on {background}",
    ),
    "full stop": (
        "a {colour} {shape}.",
        "{shape}.",
        "a {style} {colour} {shape}. {background} background.",
        "{shape}: {colour}, {style}",
        "a {style} {shape}; on {background}",
    ),
    "praise": (
        "a nice {colour} {shape}",
        "a pretty {style} {shape}",
        "cute {colour} {shape} on {background}",
        "a lovely {style} {colour} {shape}",
    ),
    "doubled letters": (
        "a drawingg of a {colour} {shape}",
        "a pictture of a {style} {shape}",
        "a {style} {colour} {shape} onn {background}",
        "drraw a {shape}",
    ),
    "background first": (
        "{background} background, {colour} {shape}",
        "in front of {background}, a {style} {shape}",
        "{background} behind a {style} {colour} {shape}",
        "on {background}, a {shape}",
    ),
}
REPORTED: Mapping[str, tuple[str, ...]] = {
    "question": (
        "can you show a {colour} {shape}?",
        "how does a {style} {shape} look?",
        "could i see a {shape}?",
        "what about a {colour} {shape} on {background}?",
        "is it a {style} {colour} {shape} on {background}?",
    ),
    "please": (
        "a {colour} {shape} please",
        "please, a {style} {shape}",
        "{shape} on {background}, please",
        "please give me a {style} {colour} {shape}",
    ),
    "wish": (
        "i want a {colour} {shape}",
        "i need a {style} {shape} on {background}",
        "we would like a {shape}",
        "hoping for a {style} {colour} {shape}",
    ),
    "definite": (
        "the {colour} {shape}",
        "my {style} {shape}",
        "the {shape} on the {background} background",
        "your {style} {colour} {shape} on {background}",
    ),
    "marks": (
        "a {colour} {shape}!",
        "{style} {colour} {shape}!!!",
        '"{shape}"',
        "{shape} - {colour} - {background}",
        "({style} {shape})",
    ),
    "quality": (
        "a {colour} {shape}, highly detailed",
        "{style} {shape}, 4k",
        "best quality {colour} {shape} on {background}",
        "hd {style} {colour} {shape} on {background}",
        "a {shape}, masterpiece",
    ),
    "swapped letters": (
        "a {colour} {shape} on a {background} bakcground",
        "an iamge of a {style} {shape}",
        "a {colour} {shape} wiht {background}",
        "hte {style} {colour} {shape}",
    ),
    "upper case": (
        "A {colour} {shape}",
        "{style} {shape} ON {background}",
        "THE {shape}",
        "A {style} {colour} {shape} ON A {background} BACKGROUND",
    ),
    "shape first": (
        "a {shape} in {colour}",
        "{shape}, {style}, {colour}, on {background}",
        "a {shape}, it is {colour}",
        "a {shape} coloured {colour} and {style}",
    ),
    "story": (
        "dog with a {colour} {shape}",
        "a {style} {shape} at night",
        "a big {colour} {shape} on {background}",
        "happy {style} {colour} {shape}",
        "a {shape} from space",
    ),
}
PARTS: Mapping[Part, Mapping[str, tuple[str, ...]]] = {"seen": SEEN, "reported": REPORTED}
