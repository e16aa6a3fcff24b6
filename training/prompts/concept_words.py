"""The words that name a concept in a prompt, and prompts with these words replaced by the anchor.

The anchor of a concept is the text that takes its place, for example "square" for "circle".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


def anchor_prompts(prompts: Sequence[str], concept: Concept) -> list[str]:
    """Return prompts with every name of the concept replaced by its anchor, or left out if the anchor is empty.

    A joint concept has several parts; the names of each part are replaced by that part's own anchor.

    Raises:
        ValueError: If a prompt has no word of the concept and would stay unchanged, or if the parts of a joint concept
            contradict each other.
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
    """Return one prompt with the concept replaced by its anchor; see ``anchor_prompts``."""
    return anchor_prompts([prompt], concept)[0]


def require_apart(concept: Concept) -> None:
    """Refuse a joint concept whose parts contradict each other.

    Raises:
        ValueError: If the anchor of one part names another part, or if a word belongs to two parts with different
            anchors.
    """
    for one, other in itertools.permutations(concept.parts, 2):
        if naming(other.words()).search(one.anchor):
            raise ValueError(
                f"expected anchors that are not erased, found the anchor {one.anchor!r} of {one.name!r}, which names "
                f"{other.name!r}, erased as well: give {one.name!r} another anchor"
            )
        shared = {word.lower() for word in one.words()} & {word.lower() for word in other.words()}
        if shared and one.anchor != other.anchor:
            raise ValueError(
                f"expected one anchor for {', '.join(sorted(shared))}, found {one.anchor!r} of {one.name!r} and "
                f"{other.anchor!r} of {other.name!r}: remove the word from one of them"
            )


def naming(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the words in any case; of overlapping words, the longest."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)", re.IGNORECASE)


def in_place_of(prompt: str, words: Iterable[str], phrase: str) -> str | None:
    """Return a prompt with a phrase in place of every mention of ``words``, and fitting articles before it.

    None means that the prompt mentions none of the words. An empty phrase leaves the words out, and the article stays.
    """
    around = texts_around(prompt, words, phrase)
    return phrase.join(around) if len(around) > 1 else None


def texts_around(prompt: str, words: Iterable[str], phrase: str) -> tuple[str, ...]:
    """Return the texts of a prompt before, between and after its mentions of ``words``, with articles for a phrase.

    ``phrase.join`` of them is the prompt with the phrase in place of every mention. A prompt that mentions none of the
    words is one text.
    """
    ordered = sorted(words, key=len, reverse=True)  # longest first, so that a phrase matches before its parts
    mention = rf"(?<!\w)(?:(?P<article>an?)(?P<gap>\s+))?(?:{'|'.join(map(re.escape, ordered))})(?!\w)"
    n = "n" if phrase[:1].lower() in tuple("aeiou") else ""
    found, start = list[str](), 0
    for match in re.finditer(mention, prompt, re.IGNORECASE):
        article, gap = match["article"] or "", match["gap"] or ""
        found.append(prompt[start : match.start()] + (article[:1] + n if article else "") + gap)
        start = match.end()
    return (*found, prompt[start:])
