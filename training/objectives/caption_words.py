"""Test of text against captions: the words for the concept and its alternatives, and the words of the retain prompts.

In this module a value is a word for the concept or for one of its alternatives: a caption names one of them in one
place, as "square" or "circle" in "a red square".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..diffusion.backbone import Backbone
from .config import OutlierConfig

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Word = tuple[int, ...]  # its tokens


@dataclass(frozen=True)
class CaptionWords:
    """Words for the concept and its alternatives, and the words that strings are made of, all as token ids.

    Args:
        alternatives: Words for other values in the concept's place.
        named: Words of the concept, its name and synonyms.
        name: Name of the concept.
        anchor: Anchor of the concept.
        captions: Words of each retain prompt, in its order.
        caption_share: Smallest share of a caption-like text's tokens that must occur in ``captions`` or
            ``alternatives``.
    """

    alternatives: tuple[Word, ...]
    named: tuple[Word, ...]
    name: Word
    anchor: Word
    captions: tuple[tuple[Word, ...], ...]
    caption_share: float = 0.0

    @classmethod
    def read(cls, teacher: Backbone, config: OutlierConfig, concept: Concept, retained: Sequence[str]) -> CaptionWords:
        """Tokenize the words of a concept, of its alternatives, and of the retain prompts.

        Raises:
            ValueError: If the concept is a joint one or has no anchor, if its anchor is not an alternative, if a term
                needs retain prompts and there are none, or if a prompt has no room for the tokens of searched strings.
        """
        _require_terms(teacher, config, concept, retained)
        known: dict[str, Word] = {}

        def word(text: str) -> Word:
            if text not in known:
                known[text] = tuple(teacher.tokenizer(text, add_special_tokens=False).input_ids)
            return known[text]

        captions = tuple(tuple(map(word, prompt.replace(",", " , ").split())) for prompt in retained)
        alternatives, named = (tuple(map(word, words)) for words in (config.alternatives, concept.words()))
        return cls(alternatives, named, word(concept.name), word(concept.anchor), captions, config.caption_share)

    @cached_property
    def lexicon(self) -> tuple[Word, ...]:
        """All different words of the retain prompts, in the order of their first use."""
        return tuple(dict.fromkeys(word for caption in self.captions for word in caption))

    @cached_property
    def _caption_tokens(self) -> frozenset[int]:
        return frozenset(token for word in (*self.lexicon, *self.alternatives) for token in word)

    @cached_property
    def _values(self) -> frozenset[Word]:
        return frozenset(self.alternatives) | frozenset(self.named)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._values))

    def words(self, row: Sequence[int]) -> list[Word]:
        """Split a row of tokens into words: each value is one word, every other token is a word of its own."""
        found: list[Word] = []
        while (at := sum(map(len, found))) < len(row):
            sizes = range(min(self._longest, len(row) - at), 1, -1)
            found.append(next((w for k in sizes if (w := tuple(row[at : at + k])) in self._values), (row[at],)))
        return found

    def is_caption_like(self, row: Sequence[int]) -> bool:
        """Return True if a row of tokens is caption-like.

        It has exactly one alternative, once or more often, no word of the concept, and enough tokens of captions.
        """
        words = set(self.words(row))
        enough = sum(token in self._caption_tokens for token in row) >= self.caption_share * len(row)
        return enough and len(words & set(self.alternatives)) == 1 and not words & set(self.named)

    def with_value(self, row: Sequence[int], word: Word) -> list[Word]:
        """Return the words of a row with ``word`` in place of every value, or in front if the row has no value."""
        words = self.words(row)
        if not self._values & set(words):
            return [word, *words]
        return [word if one in self._values else one for one in words]


def _require_terms(teacher: Backbone, config: OutlierConfig, concept: Concept, retained: Sequence[str]) -> None:
    if concept.parts or not concept.anchor:
        raise ValueError(
            f"expected one concept with an anchor for the terms on outliers, found {concept.name!r} "
            f"{'of several parts' if concept.parts else 'without an anchor'}: give an anchor, train the concepts one "
            "by one, or leave the weights of outliers at 0"
        )
    takers = {"strings", "shuffled", *(["searched"] if config.caption_share > 0 else [])}
    wanted = sorted(takers & set(config.batches()))
    if wanted and not retained:
        raise ValueError(
            f"expected retain prompts, whose words the terms {' and '.join(wanted)} use, found none: give retain "
            "prompts, or leave these weights at 0"
        )
    if config.alternatives and concept.anchor not in config.alternatives:
        raise ValueError(
            f"expected the anchor {concept.anchor!r} among outliers.alternatives, found {config.alternatives}: add the "
            "anchor"
        )
    room = teacher.max_length - 2
    if config.searches and config.searched_tokens > room:
        raise ValueError(
            f"expected outliers.searched_tokens of at most {room}, the room in a prompt, found "
            f"{config.searched_tokens}: lower it"
        )
