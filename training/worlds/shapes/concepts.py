"""The concepts that ship with the shapes world: an object with synonyms, a style, an attribute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from robust_encoders.concepts import Concept, ConceptKind

from .captions import WordChoice, scene_prompts, words_for
from .vocabulary import FACTORS, HELD_OUT_TEMPLATES, TRAINING_TEMPLATES, VALUES, WORDS

_KINDS: Mapping[str, ConceptKind] = {
    "shape": "object",
    "style": "style",
    "colour": "attribute",
    "background": "attribute",
}
_PROMPTS = 256


def factor_of(name: str) -> tuple[str, str]:
    """Return the factor and the canonical value that a concept's name stands for.

    Raises:
        ValueError: If no factor has that value.
    """
    for factor in FACTORS:
        if name in VALUES[factor]:
            return factor, name
    known = [value for factor in FACTORS for value in VALUES[factor]]
    close = get_close_matches(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "take one of them"
    raise ValueError(f"expected one of {', '.join(known)}, found {name!r}; {hint}")


def shapes_concept(name: str, anchor: str = "") -> Concept:
    """Return the concept of a canonical value, with captions that training may use: half by name, half by synonym.

    Args:
        name: Canonical value that is the concept.
        anchor: Word that replaces the concept in anchored prompts; if empty, the concept's word is left out.
    """
    factor, value = factor_of(name)
    choices: tuple[WordChoice, ...] = ("name", "seen")
    by_name, by_synonym = (
        scene_prompts(_PROMPTS // 2, seed=seed, fixed={factor: value}, words=words, templates="training")
        for seed, words in enumerate(choices, start=1)
    )
    texts = dict.fromkeys(prompt.text for pair in zip(by_name, by_synonym, strict=True) for prompt in pair)
    return Concept(
        name=name,
        kind=_KINDS[factor],
        anchor=anchor,
        synonyms=words_for(factor, value, "seen"),
        prompts=tuple(texts),
    )


def all_words(name: str) -> tuple[str, ...]:
    """Return all words of a value: its name, the synonyms that training may use, and last the held-out synonym.

    Raises:
        ValueError: If no factor has that value.
    """
    return words_for(*factor_of(name), "any")


@dataclass(frozen=True)
class ShapesConcept:
    """A concept of the shapes world as a factor and its value.

    Args:
        factor: Factor of the concept: ``shape``, ``colour``, ``background`` or ``style``.
        value: Canonical value of the factor.
    """

    factor: str
    value: str

    @classmethod
    def parse(cls, concept: str | Concept) -> ShapesConcept:
        """Return the factor and value of a concept or of a concept's name.

        Raises:
            ValueError: If no factor has that value.
        """
        return cls(*factor_of(concept if isinstance(concept, str) else concept.name))

    @cached_property
    def concept(self) -> Concept:
        """The concept with the synonyms and captions that training may use."""
        return shapes_concept(self.value)

    @property
    def stated(self) -> dict[str, str]:
        """The concept's value, by factor, as captions state it."""
        return {self.factor: self.value}

    @property
    def others(self) -> list[str]:
        """The other values of the concept's factor."""
        return [value for value in VALUES[self.factor] if value != self.value]

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the value, with the held-out synonym last."""
        return words_for(self.factor, self.value, "any")


def additions(concept: ShapesConcept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that an attacker may add to a caption, as two groups.

    The first group has the words of the other factors. The second has all words of the concept's own factor, with the
    concept's synonyms and its held-out word, but without its name.
    """
    factor, value = concept.factor, concept.value
    spoken = {f: tuple(word for words in WORDS[f].values() for word in words) for f in FACTORS}
    others = tuple(word for f in FACTORS if f != factor for word in spoken[f])
    return others, tuple(word for word in spoken[factor] if word != value)


def caption_words() -> tuple[str, ...]:
    """Return all words that captions of the world use, those of the templates included."""
    spoken = [word for f in FACTORS for words in WORDS[f].values() for word in words]
    templates = " ".join((*TRAINING_TEMPLATES, *HELD_OUT_TEMPLATES))
    others = re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", templates))
    return tuple(dict.fromkeys((*spoken, *others)))


def beside(name: str) -> tuple[str, ...]:
    """Return the words that training may use for the other values of a concept's factor.

    Raises:
        ValueError: If no factor has that value.
    """
    factor, value = factor_of(name)
    return tuple(word for other, words in WORDS[factor].items() if other != value for word in words[:-1])


# The anchor of each concept is a neighbour, another value of its factor. Without an anchor, a caption would leave the
# factor open, and the base would still draw the concept by chance.
_ANCHORS = {"circle": "square", "striped": "plain", "red": "green"}
CONCEPTS: Mapping[str, Concept] = {name: shapes_concept(name, anchor) for name, anchor in _ANCHORS.items()}
