"""What an encoder has unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from robust_encoders.utils.json_fields import short

ConceptKind = Literal["content", "style", "object", "attribute"]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept to erase, and what it is erased towards.

    Args:
        name: The word or phrase itself, for example ``"circle"``.
        kind: Whether it is a content, a style, an object or an attribute.
        anchor: Words that the concept is mapped to; empty for "nothing in particular".
        synonyms: Other words for it that training may see.
        prompts: Captions that contain it; the bare word alone generalises badly to whole captions.
        parts: Parts of a joint concept, each mapped to its own anchor; see ``joint``.

    Raises:
        ValueError: Naming every field that is wrong.
    """

    name: str
    kind: ConceptKind
    anchor: str = ""
    synonyms: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    parts: tuple[Concept, ...] = ()

    def __post_init__(self) -> None:
        problems = [*self._text_problems(), *self._words_problems("synonyms"), *self._words_problems("prompts")]
        problems += self._parts_problems()
        if problems:
            raise ValueError("this concept is not valid: " + "; ".join(problems))

    def _text_problems(self) -> list[str]:
        problems = []
        if not isinstance(self.name, str) or not self.name.strip():
            problems.append(f"name: expected a word or phrase, found {short(self.name)}")
        if self.kind not in get_args(ConceptKind):
            problems.append(f"kind: expected one of {', '.join(get_args(ConceptKind))}, found {short(self.kind)}")
        if not isinstance(self.anchor, str):
            problems.append(f"anchor: expected a string (empty for none), found {short(self.anchor)}")
        return problems

    def _words_problems(self, field: str) -> list[str]:
        words = getattr(self, field)
        if not isinstance(words, tuple):
            return [f"{field}: expected a tuple of strings, found {short(words)}"]
        problems = [
            f"{field}: expected words, found {short(w)}" for w in words if not isinstance(w, str) or not w.strip()
        ]
        if not problems and len(set(words)) < len(words):
            problems.append(f"{field}: expected each word once, found {short(words)}")
        return problems

    def _parts_problems(self) -> list[str]:
        if not isinstance(self.parts, tuple) or not all(isinstance(part, Concept) for part in self.parts):
            return [f"parts: expected a tuple of concepts, found {short(self.parts)}"]
        if len(self.parts) == 1 or any(part.parts for part in self.parts):
            return [f"parts: expected at least two single concepts, found {short([part.name for part in self.parts])}"]
        if len({part.name for part in self.parts}) < len(self.parts):
            return [f"parts: expected each concept once, found {short([part.name for part in self.parts])}"]
        return []

    @classmethod
    def joint(cls, concepts: Sequence[Concept]) -> Concept:
        """Return the concept that stands for several: their names joined, all words and prompts of each.

        Prompts take turns, so that any first part of them has as many of each concept. The words of a concept stand
        for its prompts where it has none, so that every one of them is erased.

        Args:
            concepts: Concepts to join; of joint ones, the parts count. One alone comes back as it is.

        Raises:
            ValueError: If there are none, or two of the same name.
        """
        parts = tuple(part for concept in concepts for part in (concept.parts or (concept,)))
        if not parts:
            raise ValueError("expected at least one concept, found none")
        if len(parts) == 1:
            return parts[0]
        kinds, anchors = {part.kind for part in parts}, {part.anchor for part in parts}
        return cls(
            name=" and ".join(part.name for part in parts),
            kind=kinds.pop() if len(kinds) == 1 else "content",
            anchor=anchors.pop() if len(anchors) == 1 else "",
            synonyms=tuple(dict.fromkeys(word for part in parts for word in part.words())),
            prompts=tuple(dict.fromkeys(_by_turns([part.prompts or part.words() for part in parts]))),
            parts=parts,
        )

    def words(self) -> tuple[str, ...]:
        """Return the name and its synonyms, the name first; of a joint concept the words of its parts."""
        if self.parts:
            return tuple(dict.fromkeys(word for part in self.parts for word in part.words()))
        return (self.name, *(s for s in self.synonyms if s != self.name))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "parts"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        # Left out where there are none, as in every manifest of a single concept.
        return plain | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})


def _by_turns(lists: Sequence[Sequence[str]]) -> list[str]:
    return [items[i] for i in range(max(map(len, lists))) for items in lists if i < len(items)]
