"""The things of the emoji world with all their words, and the icons that are none of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

WordChoice = Literal["name", "seen", "unseen", "any"]


def words_by_choice(words: tuple[str, ...], choice: WordChoice) -> tuple[str, ...]:
    """Return those of a value's words that a choice allows: the first, those that training may add, the last, or all.

    Many things have no further name, so ``seen`` may allow none.
    """
    return {"name": words[:1], "seen": words[1:-1], "unseen": words[-1:], "any": words}[choice]


@dataclass(frozen=True)
class Thing:
    """A thing of the world.

    Args:
        name: Canonical name, by which concepts and labels call it.
        code: Code points of its emoji in hexadecimal.
        aliases: Further names that training may use.
        held_out: Name that the base knows, but that no erasure method is trained with.
        kinds: Words for what it is, such as "animal"; other things share them.
        tags: Keywords that go with it, but name it only beside its name.
        subgroup: Part of Unicode's groups that it belongs to, for example ``food-fruit``.
    """

    name: str
    code: str
    aliases: tuple[str, ...]
    held_out: str
    kinds: tuple[str, ...]
    tags: tuple[str, ...]
    subgroup: str

    def words(self, choice: WordChoice) -> tuple[str, ...]:
        """Return names of the thing: the canonical one, those that training may use, the held-out one, or all."""
        return words_by_choice((self.name, *self.aliases, self.held_out), choice)


@dataclass(frozen=True)
class Icon:
    """An icon that is no thing of the world.

    Args:
        label: Name in Unicode's CLDR.
        code: Code points of its emoji in hexadecimal.
    """

    label: str
    code: str


@dataclass(frozen=True)
class Things:
    """All things of the world, and other icons of the same sets.

    Args:
        things: Things in the order of their labels.
        others: Icons that the training of the judge may use as pictures of none of the things.
        unknown: Further such icons, which only measure the judge.
        pretrained: Things of pretraining, in the order of their labels, with those of ``things`` among them; empty if
            they are the same. The base knows the others by name and draws none of them.
    """

    things: tuple[Thing, ...]
    others: tuple[Icon, ...]
    unknown: tuple[Icon, ...]
    pretrained: tuple[Thing, ...] = ()

    @cached_property
    def wide(self) -> Things:
        """The things of pretraining."""
        return Things(self.pretrained or self.things, self.others, self.unknown)

    @cached_property
    def strangers(self) -> tuple[Icon, ...]:
        """Icons from which the judge may learn ``none``: the others, and the things that only pretraining shows."""
        drawn = {*self.names}
        return (*self.others, *(Icon(thing.name, thing.code) for thing in self.pretrained if thing.name not in drawn))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in the order of the labels."""
        return tuple(thing.name for thing in self.things)

    @cached_property
    def by_name(self) -> Mapping[str, Thing]:
        """Things by their canonical names."""
        return {thing.name: thing for thing in self.things}

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Words for kinds of things, each once."""
        return tuple(dict.fromkeys(kind for thing in self.things for kind in thing.kinds))

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Code points of all icons: those of the things, then of the strangers, then of the unknown ones."""
        others = (icon.code for icon in (*self.strangers, *self.unknown))
        return (*(thing.code for thing in self.things), *others)

    def to_json(self) -> str:
        """Return the things of pretraining as JSON, with one line for each, and the names of those that are drawn."""
        parts: dict[str, Sequence[object]] = {
            "things": [asdict(thing) for thing in self.wide.things],
            "others": [[icon.code, icon.label] for icon in self.others],
            "unknown": [[icon.code, icon.label] for icon in self.unknown],
        }
        if self.pretrained:
            parts["drawn"] = self.names
        blocks = [f'  "{key}": [\n{_lines(rows)}\n  ]' for key, rows in parts.items()]
        return "{\n" + ",\n".join(blocks) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Things:
        """Return the things that ``to_json`` wrote."""
        stored: dict[str, Any] = json.loads(text)
        others, unknown = (tuple(Icon(label, code) for code, label in stored[k]) for k in ("others", "unknown"))
        return cls(tuple(_thing(row) for row in stored["things"]), others, unknown).drawing(stored.get("drawn", ()))

    def drawing(self, names: Collection[str]) -> Things:
        """Return these things as those of pretraining, of which the base draws some.

        Args:
            names: Canonical names of the drawn things; empty for all.

        Raises:
            ValueError: If there is no thing of a name.
        """
        if unknown := sorted({*names} - {*self.names}):
            raise ValueError(
                f"expected names of things of chosen.txt, found {', '.join(unknown)}; take them out of drawn.txt"
            )
        if not names or {*names} == {*self.names}:
            return self
        return replace(self, things=tuple(t for t in self.things if t.name in names), pretrained=self.things)


def _lines(rows: Sequence[object]) -> str:
    return ",\n".join(f"    {json.dumps(row)}" for row in rows)


def _thing(row: Mapping[str, Any]) -> Thing:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Thing(**fields)


@cache
def load_things() -> Things:
    """Return the things of the packaged list."""
    return Things.from_json(resources.files(__package__).joinpath("things.json").read_text(encoding="utf-8"))
