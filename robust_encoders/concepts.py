"""What an encoder has unlearned."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from .fields import short

ConceptKind = Literal["content", "style", "object", "attribute"]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept to erase, and what it is erased towards.

    Args:
        name: The word or phrase itself, for example ``"circle"``.
        kind: Whether it is a content, a style, an object or an attribute.
        anchor: What the concept is mapped to; empty for "nothing in particular".
        synonyms: Other words for it that training may see.
        prompts: Captions that contain it; the bare word alone generalises badly to whole captions.

    Raises:
        ValueError: Naming every field that is wrong.
    """

    name: str
    kind: ConceptKind
    anchor: str = ""
    synonyms: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [*self._text_problems(), *self._words_problems("synonyms"), *self._words_problems("prompts")]
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

    def words(self) -> tuple[str, ...]:
        """Return the name and its synonyms, the name first."""
        return (self.name, *(s for s in self.synonyms if s != self.name))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
