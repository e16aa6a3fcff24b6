"""The place of a concept in prompts, and the words that may stand there: read off the prompts and the tokenizer."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import in_place_of, mentioned, mentions, texts_around
from ..prompts.fitting_words import every_word, fitting_words, words_of
from ..prompts.vocabulary_words import whole_words

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

# Nothing of such a word can join a text beside it: the tokenizer takes marks together.
_CLEAN = re.compile(r"[^\W_](?:.*[^\W_])?")


@dataclass(frozen=True)
class ConceptPlace:
    """The place of a single concept in prompts; a joint concept has one place for each part.

    Args:
        teacher: Frozen base, whose tokenizer is used.
        name: Name of the concept.
        words: Words of the concept.
        texts: Prompts that name the concept, and no other part of a joint one.
        retained: Retain prompts.
        erased: Words of all parts.
        beside: Words that other parts' places have, or that stand beside any of them; in lower case.
    """

    teacher: Backbone
    name: str
    words: tuple[str, ...]
    texts: tuple[str, ...]
    retained: tuple[str, ...]
    erased: tuple[str, ...]
    beside: frozenset[str] = frozenset()

    @cached_property
    def fitting(self) -> tuple[str, ...]:
        """Words that fit the concept's place, see ``fitting_words``; none of them is erased."""
        named = mentions(self.erased)
        found = fitting_words(self.texts, self.words, self.retained)
        return tuple(word for word in found if not named.search(word))

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """Words from anywhere, the shortest first: those of the retain prompts, and the vocabulary's whole words.

        A word that a prompt has beside the concept's place is left out, because it means something there: after "a
        green", a prompt without "red" may go on with "striped circle".
        """
        named, left_out = mentions(self.erased), every_word(self.texts) | self.beside
        known = dict.fromkeys((*words_of(self.retained), *whole_words(self.teacher.tokenizer)))
        found = [word for word in known if word not in left_out and not named.search(word) and _CLEAN.fullmatch(word)]
        return tuple(sorted(found, key=dict(zip(found, self._sizes(found), strict=True)).__getitem__))

    @cached_property
    def roomy(self) -> tuple[str, ...]:
        """Prompts with room for two fitting words in the place of every mention of the concept."""
        return tuple(text for text in self.texts if self._room(text) >= self._sizes([self._longest])[0])

    @cached_property
    def seconds(self) -> tuple[int, ...]:
        """For each prompt of ``roomy``, the number of foreign words, from the first on, that have room in it."""
        sizes = self._sizes(self.foreign)
        return tuple(bisect_right(sizes, self._room(text)) for text in self.roomy)

    def filled(self, text: str) -> str:
        """Return a prompt with the longest fitting word twice in the place of every mention."""
        both = f"{self._longest} {self._longest}"
        return both.join(texts_around(text, self.words, both))

    @cached_property
    def _longest(self) -> str:
        return max(self.fitting, key=dict(zip(self.fitting, self._sizes(self.fitting), strict=True)).__getitem__)

    def _room(self, text: str) -> int:
        """Return the number of tokens for a second word, whatever fitting word stands at every mention."""
        around = texts_around(text, self.words, self._longest)
        # CLIP's tokenizer splits a word behind an apostrophe in its own way: 'star is 's and tar.
        apart = not any(before.endswith("'") for before in around[:-1])
        firsts = (self._longest,) if apart else self.fitting
        filled = [first.join(texts_around(text, self.words, first)) for first in firsts]
        rows = self.teacher.tokenizer(filled, truncation=False, verbose=False).input_ids
        return (self.teacher.max_length - max(map(len, rows))) // (len(around) - 1)

    def _sizes(self, words: Sequence[str]) -> list[int]:
        """Return the numbers of tokens of words."""
        if not words:
            return []
        return [len(ids) for ids in self.teacher.tokenizer(list(words), add_special_tokens=False).input_ids]


_HIDDEN = "\ue000"  # stands for a mention that stays; no tokenizer or prompt uses it


def concept_places(
    teacher: Backbone, concept: Concept, texts: Sequence[str], retained: Sequence[str]
) -> tuple[ConceptPlace, ...]:
    """Return the place of each part of a concept that prompts name, in the order of the parts.

    A prompt that names several parts stands for each of them, with the anchors in place of the others' words.

    Args:
        teacher: Frozen base.
        concept: Single or joint concept.
        texts: Prompts with the concept.
        retained: Retain prompts.
    """
    parts, erased, kept = concept.parts or (concept,), concept.words(), tuple(retained)
    alone = [(part, _texts_of(part, parts, texts)) for part in parts]
    found = [ConceptPlace(teacher, part.name, part.words(), own, kept, erased) for part, own in alone if own]
    if len(found) < 2:
        return tuple(found)
    spoken, fits = every_word(texts), [set(place.fitting) for place in found]
    beside = [frozenset(spoken.union(*fits[:i], *fits[i + 1 :])) for i in range(len(found))]
    return tuple(replace(place, beside=one) for place, one in zip(found, beside, strict=True))


def _texts_of(part: Concept, parts: Sequence[Concept], texts: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts that name a part, with the other parts' words replaced by their anchors.

    Of overlapping words the longest is meant: "a hot dog" names a hot dog, and no dog.
    """
    known = [word for one in parts for word in one.words()]
    own, every = {word.lower() for word in part.words()}, mentions(known)

    def is_own(match: re.Match[str]) -> bool:
        return mentioned(match[0], known).lower() in own

    others = [(one, [word for word in one.words() if word.lower() not in own]) for one in parts]
    found = dict[str, None]()
    for text in texts:
        spoken = [match[0] for match in every.finditer(text) if is_own(match)]
        if not spoken:
            continue
        hidden = every.sub(lambda match: _HIDDEN if is_own(match) else match[0], text)
        for other, words in others:
            if words and (anchored := in_place_of(hidden, words, other.anchor)) is not None:
                hidden = " ".join(anchored.split())
        around = hidden.split(_HIDDEN)
        found["".join(piece for pair in zip(around, [*spoken, ""], strict=True) for piece in pair)] = None
    return tuple(found)
