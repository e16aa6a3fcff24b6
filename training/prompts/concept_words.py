"""The words that name a concept in a prompt, and prompts with these words replaced by the anchor.

The anchor of a concept is the text that takes its place, for example "square" for "circle". A text mentions a word if
it has the word itself, a plural, or a spelling with a hyphen: "hot-dogs" mentions "hot dog".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .word_forms import plurals, spelled_apart

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


def anchor_prompts(prompts: Sequence[str], concept: Concept) -> list[str]:
    """Return prompts with every name of the concept replaced by its anchor, or left out if the anchor is empty.

    A plural gives the anchor's plural, if it has one. A joint concept has several parts; the names of each part are
    replaced by that part's own anchor.

    Raises:
        ValueError: If a prompt has no word of the concept and would stay unchanged, or if the parts of a joint concept
            contradict each other.
    """
    require_apart(concept)
    anchors = {word: part.anchor for part in concept.parts or (concept,) for word in part.words()}
    named = mentions(anchors)

    def anchor(match: re.Match[str]) -> str:
        word = mentioned(match[0], anchors)
        several = re.fullmatch(spelled_apart(word), match[0], re.IGNORECASE) is None
        return next(iter(plurals(anchors[word])), anchors[word]) if several else anchors[word]

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
        if mentions(other.words()).search(one.anchor):
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
    """Return a pattern that matches any of the words in any case; of overlapping words, the longest.

    Plurals and other spellings do not match. An attacker may use these, so an attack that must not say the concept's
    words leaves out no other form. ``mentions`` matches all forms.
    """
    return re.compile(rf"(?<!\w)(?:{_any_of(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def mentions(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches the words with their plurals and hyphens, in any case; see ``word_forms``.

    Of overlapping words it matches the longest.
    """
    return re.compile(rf"(?<!\w)(?:{_forms(tuple(words))})(?!\w)", re.IGNORECASE)


def mentioned(text: str, words: Iterable[str]) -> str:
    """Return the word that a match of ``mentions`` stands for: the word that the text is, or else is a form of.

    Raises:
        ValueError: If the text is a form of none of the words.
    """
    known = [*words]
    for pattern in (naming, mentions):
        if found := next((word for word in known if pattern([word]).fullmatch(text)), ""):
            return found
    raise ValueError(f"expected a form of one of {known}, found {text!r}; give a text that mentions one of them")


@lru_cache(maxsize=1024)
def _forms(words: tuple[str, ...]) -> str:
    """Return an expression for all forms of the words: plurals of the language, and "s" and "es" after any word."""
    # "TVs", "cafés", "bow and arrows": a mention that is missed costs more than a form that nobody writes.
    added = ("s", "es")
    forms = ((word, *plurals(word), *(word + end for end in added if len(word) > 1)) for word in words)
    return _any_of(spelled_apart(form) for found in forms for form in found)


def _any_of(patterns: Iterable[str]) -> str:
    """Return an expression for any of some expressions, the longest first, so that a phrase goes before its parts."""
    return "|".join(sorted(dict.fromkeys(patterns), key=len, reverse=True))


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
    mention = rf"(?<!\w)(?:(?P<article>an?)(?P<gap>\s+))?(?:{_forms(tuple(words))})(?!\w)"
    n = "n" if phrase[:1].lower() in tuple("aeiou") else ""
    found, start = list[str](), 0
    for match in re.finditer(mention, prompt, re.IGNORECASE):
        article, gap = match["article"] or "", match["gap"] or ""
        found.append(prompt[start : match.start()] + (article[:1] + n if article else "") + gap)
        start = match.end()
    return (*found, prompt[start:])
