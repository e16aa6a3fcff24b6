"""The concept that an encoder has unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from robust_encoders.utils.json_fields import short

ConceptKind = Literal["content", "style", "object", "attribute"]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept to erase, and the anchor that it is mapped to.

    Args:
        name: Word or phrase of the concept, for example ``"circle"``.
        kind: Kind of the concept: ``content``, ``style``, ``object`` or ``attribute``.
        anchor: Words that the concept is mapped to; empty for "nothing in particular".
        synonyms: Other words for the concept that training may see.
        prompts: Captions that contain the concept; the bare word alone generalises badly to whole captions.
        parts: Single concepts of a joint concept, each mapped to its own anchor; see :meth:`joint`.

    Raises:
        ValueError: If fields are wrong; the message names each of them.
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
        """Return one joint concept for several concepts, with their names joined and all their words and prompts.

        The prompts of the concepts alternate, so that the first n prompts hold equally many of each concept. A concept
        without prompts contributes its words as prompts, so that it is erased, too.

        Args:
            concepts: Concepts to join; a joint concept among them is replaced by its parts. A single concept is
                returned as it is.

        Raises:
            ValueError: If the list is empty, or two concepts have the same name.
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
        """Return the name and then the synonyms; for a joint concept, the words of all its parts."""
        if self.parts:
            return tuple(dict.fromkeys(word for part in self.parts for word in part.words()))
        return (self.name, *(s for s in self.synonyms if s != self.name))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "parts"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        # A single concept has no parts, and its manifest has no such field.
        return plain | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})


def _by_turns(lists: Sequence[Sequence[str]]) -> list[str]:
    return [items[i] for i in range(max(map(len, lists))) for items in lists if i < len(items)]
