"""The words of a concept in a prompt: what names it, and what is left of the prompt without it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


def anchor_prompts(prompts: Sequence[str], concept: Concept) -> list[str]:
    """Return prompts with every name of the concept replaced by its anchor, or left out where that is empty.

    Of a joint concept, the names of every part, each by that part's own anchor.

    Raises:
        ValueError: A prompt names the concept by none of its words, so it would be its own anchor; or the parts of a
            joint concept contradict each other.
    """
    require_apart(concept)
    anchors = {word: part.anchor for part in concept.parts or (concept,) for word in part.words()}
    named = naming(anchors)

    def anchor(match: re.Match[str]) -> str:
        return next(anchors[word] for word in anchors if re.fullmatch(re.escape(word), match[0], re.IGNORECASE))

    replaced = [named.subn(anchor, prompt) for prompt in prompts]
    if missing := [prompt for prompt, (_, found) in zip(prompts, replaced, strict=True) if not found]:
        raise ValueError(
            f"expected one of {concept.words()} in {missing[0]!r}, found none: add the word to the concept's "
            "synonyms, or drop the prompt"
        )
    return [" ".join(text.split()) for text, _ in replaced]


def anchor_prompt(prompt: str, concept: Concept) -> str:
    """Return one prompt anchored; see ``anchor_prompts``."""
    return anchor_prompts([prompt], concept)[0]


def require_apart(concept: Concept) -> None:
    """Refuse a joint concept that could not be erased without drawing a part of it.

    Raises:
        ValueError: The anchor of one part names another part, or a word belongs to two parts with different anchors.
    """
    for one, other in itertools.permutations(concept.parts, 2):
        if naming(other.words()).search(one.anchor):
            raise ValueError(
                f"expected anchors that are kept, found {one.anchor!r} of {one.name!r}, which names {other.name!r}, "
                "erased as well: give one of them another anchor"
            )
        shared = {word.lower() for word in one.words()} & {word.lower() for word in other.words()}
        if shared and one.anchor != other.anchor:
            raise ValueError(
                f"expected one anchor for {', '.join(sorted(shared))}, found {one.anchor!r} of {one.name!r} and "
                f"{other.anchor!r} of {other.name!r}: leave the word to one of them"
            )


def naming(words: Iterable[str]) -> re.Pattern[str]:
    """Return what matches any of the words, whatever its case, a phrase before its parts."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))})\b", re.IGNORECASE)
