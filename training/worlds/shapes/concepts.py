"""The concepts that ship with the shapes world: an object with synonyms, a style, an attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from robust_encoders.concepts import Concept, ConceptKind

from .captions import WordChoice, scene_prompts, words_for
from .vocabulary import FACTORS, VALUES, WORDS

_KINDS: Mapping[str, ConceptKind] = {
    "shape": "object",
    "style": "style",
    "colour": "attribute",
    "background": "attribute",
}
_PROMPTS = 256


def factor_of(name: str) -> tuple[str, str]:
    """Return the factor and canonical value that a concept's name stands for.

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
    """Return the concept of a canonical value, with captions that erasers may see: half by name, half by synonym.

    Args:
        name: A canonical value.
        anchor: The word that takes its place in anchored prompts; by default it is left out.
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
    """Return every word of a value: its name, the synonyms that erasers see, and last the one held out from them.

    Raises:
        ValueError: If no factor has that value.
    """
    return words_for(*factor_of(name), "any")


@dataclass(frozen=True)
class ShapesConcept:
    """A value of the shapes world, looked up once: what is erased, and where it stands among the factors.

    Args:
        factor: ``shape``, ``colour``, ``background`` or ``style``.
        value: Canonical value of the factor.
    """

    factor: str
    value: str

    @classmethod
    def parse(cls, concept: str | Concept) -> ShapesConcept:
        """Return the value that a concept, or a concept's name, stands for.

        Raises:
            ValueError: If no factor has that value.
        """
        return cls(*factor_of(concept if isinstance(concept, str) else concept.name))

    @cached_property
    def concept(self) -> Concept:
        """The concept with the synonyms and captions that erasers may see."""
        return shapes_concept(self.value)

    @property
    def stated(self) -> dict[str, str]:
        """Factor to value, as prompts state it."""
        return {self.factor: self.value}

    @property
    def others(self) -> list[str]:
        """The other values of the factor."""
        return [value for value in VALUES[self.factor] if value != self.value]

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the value, the one held out from erasers last."""
        return words_for(self.factor, self.value, "any")


def additions(concept: ShapesConcept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return words that an attacker may add to a caption: those of the other factors, and the concept's neighbours.

    Neighbours are all words of its own factor, its synonyms and the held-out one among them, but not its name.
    """
    factor, value = concept.factor, concept.value
    spoken = {f: tuple(word for words in WORDS[f].values() for word in words) for f in FACTORS}
    others = tuple(word for f in FACTORS if f != factor for word in spoken[f])
    return others, tuple(word for word in spoken[factor] if word != value)


def beside(name: str) -> tuple[str, ...]:
    """Return the words that erasers may see of the other values of a concept's factor.

    Raises:
        ValueError: If no factor has that value.
    """
    factor, value = factor_of(name)
    return tuple(word for other, words in WORDS[factor].items() if other != value for word in words[:-1])


# Each is mapped to a neighbour of its own factor: without the word a caption leaves the value open, and the concept
# would still be drawn as often as chance has it.
_ANCHORS = {"circle": "square", "striped": "plain", "red": "green"}
CONCEPTS: Mapping[str, Concept] = {name: shapes_concept(name, anchor) for name, anchor in _ANCHORS.items()}
