"""The words that fit the concept's place, read off the retain prompts; nobody lists them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .concept_words import naming

_GAP = "\0"
_MARKS = re.compile(r"([,.;:!?])")
_ARTICLE = re.compile(rf"\ban (?={_GAP})")


def fitting_words(prompts: Sequence[str], words: Sequence[str], retained: Sequence[str]) -> tuple[str, ...]:
    """Return the words that retain prompts have where prompts with the concept have its words.

    A word fits if a retain prompt with a gap in its place equals a prompt with a gap in the concept's place, as "a red
    star" and "a red circle" do. If none fits so, every word counts that stands where another retain prompt has another
    word, as in "a photo of a dog" and "a photo of a cat". A word that prompts with the concept have beside the
    concept's words does not take their place. The words are in the order of their first use.

    Args:
        prompts: Prompts with the concept.
        words: Words of the concept, which the result leaves out.
        retained: Retain prompts.
    """
    named = naming(words)
    gaps = {_normal(named.sub(_GAP, prompt)) for prompt in prompts}
    beside = {word for prompt in prompts for word in _split(named.sub(_GAP, prompt))}
    spoken = [
        (gap, word) for text in retained for gap, word in _gaps(text) if word not in beside and not named.search(word)
    ]
    found = dict.fromkeys(word for gap, word in spoken if gap in gaps)
    if not found:
        different = Counter(gap for gap, _ in dict.fromkeys(spoken))
        found = dict.fromkeys(word for gap, word in spoken if different[gap] > 1)
    return tuple(found)


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return all different words of texts, in the order of their first use, without punctuation marks."""
    return tuple(dict.fromkeys(word for text in texts for word in _split(text) if not _MARKS.fullmatch(word)))


def _gaps(text: str) -> Iterator[tuple[str, str]]:
    """Yield a text with a gap in the place of each of its words, and that word."""
    spoken = _split(text)
    for i, word in enumerate(spoken):
        if not _MARKS.fullmatch(word):
            yield _normal(" ".join([*spoken[:i], _GAP, *spoken[i + 1 :]])), word


def _split(text: str) -> list[str]:
    return _MARKS.sub(r" \1 ", text).split()


def _normal(text: str) -> str:
    """Return a text with single spaces, and with the same article before a gap, whatever word fills it."""
    return _ARTICLE.sub("a ", " ".join(_split(text)))
