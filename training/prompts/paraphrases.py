"""Other ways to ask for something: everyday frames around a phrase, and descriptions that do not name it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from robust_encoders.concepts import ConceptKind

_ARTICLE = re.compile(r"^(?:an?|one|the)\s+", re.IGNORECASE)
# General nouns for concepts of a kind.
_NOUNS: dict[ConceptKind, tuple[str, ...]] = {
    "object": ("object", "thing"),
    "style": ("style", "pattern"),
    "attribute": ("kind", "look"),
    "content": ("scene", "subject"),
}
_OPEN = ("another {noun}", "an unusual {noun}")
# {a} and {b} are two other values.
_CONTRASTS = ("something like {a}", "something between {a} and {b}", "not {a}", "neither {a} nor {b}")
_PAIRS = 2


@cache
def everyday_frames() -> tuple[str, ...]:
    """Return the frames of ``paraphrase_frames.txt``; that file names their source."""
    text = resources.files(__package__).joinpath("paraphrase_frames.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def framed(frame: str, phrase: str) -> str:
    """Return a phrase in a frame, with its article or without, as the frame asks."""
    return frame.replace("{bare}", _ARTICLE.sub("", phrase)).replace("{}", phrase)


def descriptions(kind: ConceptKind, others: Sequence[str]) -> tuple[str, ...]:
    """Return phrases that may stand for a concept without naming it.

    Args:
        kind: Kind of the concept, which decides the general nouns.
        others: Values that the concept could be taken for, for example its anchor or the other shapes. Without them,
            no description contrasts the concept with others.
    """
    found = ["something", "", *(text.replace("{noun}", noun) for text in _OPEN for noun in _NOUNS[kind])]
    if others:
        pairs = list(zip(others, [*others[1:], others[0]], strict=True))[:_PAIRS]
        found += [text.replace("{a}", a).replace("{b}", b) for a, b in pairs for text in _CONTRASTS]
        found.append(" and ".join(f"no {other}" for other in others))
    return tuple(dict.fromkeys(found))
