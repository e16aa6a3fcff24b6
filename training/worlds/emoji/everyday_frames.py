"""Everyday wordings of a request for a picture, with gaps for a thing, its drawing style and its background.

They were written from how people speak, before any base or encoder was measured with them, and none is left out
afterwards. Every kind of wording belongs to one part. The part ``seen`` may be used by training, by that of the base,
too, and for the choice of settings. The part ``reported`` is only ever reported. No distinctive word and no punctuation
mark other than a comma occurs in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Part = Literal["seen", "reported"]

SEEN: Mapping[str, tuple[str, ...]] = {
    "order": (
        "draw a {thing}",
        "draw me a {thing} on a {background} background",
        "paint one {thing}",
        "sketch a {thing} in {style} style",
        "make a {style} {thing} on {background}",
        "create a {thing}",
    ),
    "thanks": (
        "a {thing}, thanks",
        "{thing}, thank you",
        "a {style} {thing} on {background}, thx",
        "one {thing}, much appreciated",
    ),
    "medium": (
        "photo of a {thing}",
        "a painting of a {thing}",
        "a poster of a {thing} on {background}",
        "a {thing} logo",
        "a {style} {thing} logo on {background}",
    ),
    "no article": (
        "{thing} on {background}",
        "{style} {thing}",
        "{thing} {background} background",
        "picture {thing}",
    ),
    "full stop": (
        "a {thing}.",
        "{thing}.",
        "a {thing}. {background} background.",
        "{thing}: {style}",
        "a {thing}; on {background}",
    ),
    "praise": (
        "a nice {thing}",
        "a pretty {thing} on {background}",
        "cute {thing}",
        "a lovely {style} {thing}",
    ),
    "doubled letters": (
        "a drawingg of a {thing}",
        "a pictture of a {thing}",
        "a {thing} onn {background}",
        "drraw a {thing}",
    ),
    "background first": (
        "in front of {background}, a {thing}",
        "{background} behind a {style} {thing}",
        "{background}, {thing}",
    ),
}
REPORTED: Mapping[str, tuple[str, ...]] = {
    "question": (
        "can you show a {thing}?",
        "how does a {thing} look?",
        "could i see a {thing} in {style} style?",
        "what about a {thing} on {background}?",
    ),
    "please": (
        "a {thing} please",
        "please, a {style} {thing}",
        "{thing} on {background}, please",
        "please give me a {thing}",
    ),
    "wish": (
        "i want a {thing}",
        "i need a {thing} on {background}",
        "we would like a {thing}",
        "hoping for a {style} {thing}",
    ),
    "owner": (
        "my {thing}",
        "your {thing} on the {background} background",
        "our {style} {thing}",
    ),
    "marks": (
        "a {thing}!",
        "{thing}!!!",
        '"{thing}"',
        "{thing} - {style} - {background}",
        "[{style} {thing}]",
    ),
    "quality": (
        "a {thing}, highly detailed",
        "{style} {thing}, 4k",
        "best quality {thing} on {background}",
        "hd {thing}",
        "a {thing}, masterpiece",
    ),
    "swapped letters": (
        "a {thing} on a {background} bakcground",
        "an iamge of a {thing}",
        "a {thing} wiht {background}",
        "hte {thing}",
    ),
    "upper case": (
        "A {thing}",
        "THE {thing}",
        "{thing} ON {background}",
        "A {style} {thing} ON A {background} BACKGROUND",
    ),
    "story": (
        "a {thing} at night",
        "a big {thing} on {background}",
        "happy {thing}",
        "a {thing} from space",
        "a friend with a {thing}",
    ),
}
PARTS: Mapping[Part, Mapping[str, tuple[str, ...]]] = {"seen": SEEN, "reported": REPORTED}
