"""The words that fit the concept's place, read off the retain prompts; nobody lists them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .concept_words import mentions, naming

_GAP = "\0"
# A word with its hyphens and apostrophes, or one mark.
_SPOKEN = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_PART = re.compile(r"\w+")
_COMMON = 0.1  # smallest number of gaps that a word fits, as a share of that of the word that fits most
_ARTICLE = re.compile(rf"\ban (?=(?:[^\w\s{_GAP}] )*{_GAP})")


def fitting_words(prompts: Sequence[str], words: Sequence[str], retained: Sequence[str]) -> tuple[str, ...]:
    """Return the words that retain prompts have where prompts with the concept have its words, in lower case.

    A word fits if a retain prompt with a gap in its place equals a prompt with a gap in the concept's place, as "a red
    star" and "a red circle" do, or "a star-shaped box" and "a circle-shaped box". It must fit at least a tenth as many
    different gaps as the word that fits most, because "a nice star" beside "a striped star" is chance. If none fits,
    every word counts that stands where another retain prompt has another word, as in "a photo of a dog" and "a photo of
    a cat". A word that prompts with the concept have beside the concept's words does not take their place. Capital
    letters make no difference. The words are in the order of their first use.

    Args:
        prompts: Prompts with the concept.
        words: Words of the concept, which the result leaves out.
        retained: Retain prompts.
    """
    spelled, named = naming(words), mentions(words)  # the gap of a plural would fit words in the plural
    blank = [spelled.sub(_GAP, prompt) for prompt in prompts]
    gaps, beside = {_normal(text) for text in blank}, every_word(blank)

    def spoken(*, parts: bool) -> list[tuple[str, str]]:
        made = (pair for text in retained for pair in _gaps(text, parts=parts))
        return [(gap, word) for gap, word in made if word not in beside and not named.search(word)]

    fits: dict[str, set[str]] = {}
    for gap, word in spoken(parts=True):
        if gap in gaps:
            fits.setdefault(word, set()).add(gap)
    most = max(map(len, fits.values()), default=0)
    found = dict.fromkeys(word for word, its in fits.items() if len(its) >= _COMMON * most)
    if not found:
        whole = spoken(parts=False)
        different = Counter(gap for gap, _ in dict.fromkeys(whole))
        found = dict.fromkeys(word for gap, word in whole if different[gap] > 1)
    return tuple(found)


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return all different words of texts in lower case, in the order of their first use, without marks."""
    return tuple(dict.fromkeys(word for text in texts for word in _split(text) if _PART.match(word)))


def every_word(texts: Iterable[str]) -> set[str]:
    """Return all different words of texts in lower case; of words with hyphens and apostrophes also the parts."""
    return {part for word in words_of(texts) for part in (word, *_PART.findall(word))}


def _gaps(text: str, *, parts: bool) -> Iterator[tuple[str, str]]:
    """Yield a text with a gap in the place of each of its words, and that word; with ``parts`` also of each part."""
    spoken = _split(text)
    for i, word in enumerate(spoken):
        cut = [match.span() for match in _PART.finditer(word)] if parts else []
        for start, end in dict.fromkeys([(0, len(word)), *cut]) if _PART.match(word) else ():
            gap = word[:start] + _GAP + word[end:]
            yield _normal(" ".join([*spoken[:i], gap, *spoken[i + 1 :]])), word[start:end]


def _split(text: str) -> list[str]:
    return _SPOKEN.findall(text.lower())


def _normal(text: str) -> str:
    """Return a text in lower case, with single spaces, and with the same article before a gap, whatever fills it."""
    return _ARTICLE.sub("a ", " ".join(_split(text)))
