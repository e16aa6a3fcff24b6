"""Concepts of the emoji world: groups of things with their neighbours, single things, styles and backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from robust_encoders.concepts import Concept, ConceptKind

from .captions import EVERYDAY, prompts
from .frames import TRAINING
from .things import Things, WordChoice, load_things, words_by_choice
from .vocabulary import BACKGROUNDS, STYLES
from .word_lists import CONCEPT_WORDS

PROMPTS = 256
TRAINING_FRAMES = (*TRAINING, *EVERYDAY["seen"])


@dataclass(frozen=True)
class EmojiConcept:
    """A concept of the world.

    Args:
        name: Name of the concept.
        label: Label whose values show it: ``thing``, ``style`` or ``background``.
        members: Canonical values that show it.
        neighbours: Values that resemble the members and must stay.
        border: Things that some would count among the members and others would not; they count in no rate.
        anchor: Words that take the concept's place.
    """

    name: str
    label: str
    members: tuple[str, ...]
    neighbours: tuple[str, ...] = ()
    border: tuple[str, ...] = ()
    anchor: str = ""

    @property
    def kind(self) -> ConceptKind:
        """Kind of the concept: a group is ``content``, a single thing is an ``object``."""
        if self.label == "thing":
            return "content" if self.name in CONCEPT_WORDS else "object"
        return "style" if self.label == "style" else "attribute"

    def words(self, things: Things, *, held_out: bool = False) -> tuple[str, ...]:
        """Return the words for the concept: words of the group, then those of its members.

        Args:
            things: Things of the world.
            held_out: True to add the held-out words, which training may not use.
        """
        groups = (word for word, members in CONCEPT_WORDS.items() if self.label == "thing" and members == self.members)
        end = None if held_out else -1
        members = (word for member in self.members for word in value_words(things, self.label, member)[:end])
        return tuple(dict.fromkeys((self.name, *groups, *members)))

    def members_with(self, things: Things, words: WordChoice) -> tuple[str, ...]:
        """Return the members that have words of a choice; only some have further names.

        Args:
            things: Things of the world.
            words: Words for the members.
        """
        return tuple(m for m in self.members if words_by_choice(value_words(things, self.label, m), words))

    def unspoken(self, things: Things) -> tuple[str, ...]:
        """Return the words that no kept text says: all words of the concept, and those of the things on its border."""
        border = (word for name in self.border for word in things.by_name[name].words("any"))
        return (*self.words(things, held_out=True), *border)

    def near(self, things: Things) -> tuple[str, ...]:
        """Return the neighbours; for a thing without a list of them, the other things of its part of Unicode's groups.

        Args:
            things: Things of the world.
        """
        if self.neighbours or self.label != "thing":
            return self.neighbours
        groups = {things.by_name[member].subgroup for member in self.members}
        return tuple(t.name for t in things.things if t.subgroup in groups and t.name not in self.members)

    def concept(self, things: Things, *, anchored: bool = False) -> Concept:
        """Return the concept with the words and captions that training may use.

        Half of the captions call the members by canonical names, the other half by further names. Members without a
        further name have canonical names in both halves, so that training sees every member equally often.
        """
        choices: tuple[WordChoice, ...] = ("name", "seen")
        by_name, by_alias = (
            prompts(
                things, PROMPTS // 2, seed=seed, words=words, frames=TRAINING_FRAMES, fixed={self.label: self.members}
            )
            for seed, words in enumerate(choices, start=1)
        )
        texts = dict.fromkeys(prompt.text for pair in zip(by_name, by_alias, strict=True) for prompt in pair)
        name, *synonyms = self.words(things)
        return Concept(
            name=name,
            kind=self.kind,
            anchor=self.anchor if anchored else "",
            synonyms=tuple(synonyms),
            prompts=tuple(texts),
        )


# A kitchen knife and an axe are tools in a kitchen and in a wood, and weapons in a film. Emojibase tags only the knife
# as a weapon. So neither counts.
CONCEPTS: Mapping[str, EmojiConcept] = {
    concept.name: concept
    for concept in (
        EmojiConcept(
            "alcohol",
            "thing",
            CONCEPT_WORDS["alcohol"],
            neighbours=("glass of milk", "teacup", "teapot", "coffee", "beverage box", "cup with straw"),
            anchor="glass of milk",
        ),
        EmojiConcept(
            "weapon",
            "thing",
            CONCEPT_WORDS["weapon"],
            neighbours=("hammer", "wrench", "screwdriver", "pick", "carpentry saw"),
            border=("kitchen knife", "axe"),
            anchor="hammer",
        ),
        EmojiConcept(
            "smoking", "thing", CONCEPT_WORDS["smoking"], neighbours=("pen", "lollipop", "fire", "flute"), anchor="pen"
        ),
        EmojiConcept(
            "swimwear",
            "thing",
            CONCEPT_WORDS["swimwear"],
            neighbours=("dress", "t-shirt", "jeans", "running shirt", "socks"),
            anchor="dress",
        ),
        EmojiConcept(
            "hot dog",
            "thing",
            ("hot dog",),
            neighbours=("dog", "sandwich", "hamburger", "french fries"),
            anchor="sandwich",
        ),
        EmojiConcept("line art", "style", ("line art",), neighbours=("noto", "twemoji", "fluent"), anchor="fluent"),
    )
}


def emoji_concept(name: str, things: Things | None = None) -> EmojiConcept:
    """Return the concept of a name: one of ``CONCEPTS``, or a thing, a style or a background.

    Args:
        name: Name of the concept, with spaces or, as in names of recipes, with underscores.
        things: Things of the world; None takes the packaged list.

    Raises:
        ValueError: If the world has no such concept, or the base does not draw the thing.
    """
    name = name.replace("_", " ")
    if name in CONCEPTS:
        return CONCEPTS[name]
    values = {"thing": (things or load_things()).names, "style": tuple(STYLES), "background": tuple(BACKGROUNDS)}
    for label, known in values.items():
        if name in known:
            return EmojiConcept(name, label, (name,), neighbours=() if label == "thing" else _others(known, name))
    if name in (things or load_things()).wide.names:
        raise ValueError(
            f"expected a thing that the emoji base draws, found {name!r}, of which it has learned the word alone; "
            "docs/emoji.md names the list of those that it draws"
        )
    close = get_close_matches(name, [*CONCEPTS, *(value for known in values.values() for value in known)])
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"groups are {', '.join(CONCEPTS)}"
    raise ValueError(f"expected a thing, style, background or group of the emoji world, found {name!r}; {hint}")


def value_words(things: Things, label: str, value: str) -> tuple[str, ...]:
    """Return all words for a value of a label, the canonical one first and the held-out one last.

    Args:
        things: Things of the world.
        label: Label of the value: ``thing``, ``style`` or ``background``.
        value: Canonical value.
    """
    if label == "thing":
        return things.by_name[value].words("any")
    return STYLES[value] if label == "style" else BACKGROUNDS[value]


def _others(known: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(value for value in known if value != name)
