"""The prompts of an evaluation around one concept of the emoji world: with the concept, beside it, and open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np

from ...prompts.concept_words import mentions
from .captions import EmojiPrompt, Scene, filled, gaps, prompts, words_of
from .concepts import EmojiConcept, value_words
from .everyday_frames import PARTS, Part
from .frames import HELD_OUT, THINGLESS, TRAINING
from .things import Things, WordChoice, load_things, words_by_choice
from .vocabulary import BACKGROUNDS, LABELS, STYLES

T = TypeVar("T")
_TRIES = 100  # of one wording, until a text says no word of the concept


@dataclass(frozen=True)
class PromptsAround:
    """The prompts around a concept of the emoji world; no training uses their wordings.

    Equal seeds give equal prompts.

    Texts without the concept say none of its words, held-out ones included, and none of the things on its border.

    Args:
        concept: Concept of the prompts.
        things: Things of the world.
    """

    attributes: ClassVar[tuple[int, ...]] = (1, 2)

    concept: EmojiConcept
    things: Things = field(default_factory=load_things)

    @property
    def name(self) -> str:
        """Name of the concept."""
        return self.concept.name

    @property
    def label(self) -> str:
        """Label whose values show the concept."""
        return self.concept.label

    @property
    def near_count(self) -> int:
        """Number of neighbours."""
        return len(self._near)

    def named(self, n: int, *, seed: int, words: WordChoice) -> list[EmojiPrompt]:
        """Return ``n`` captions that state the concept; the members of a group that have such words take turns.

        Args:
            n: Number of captions.
            seed: Seed of the random draws.
            words: Words for the members: canonical names, further names, or held-out ones. Not every thing has a
                further name. If no member has one, there are no such captions.
        """
        members = self.concept.members_with(self.things, words)
        return prompts(self.things, n, seed=seed, words=words, fixed={self.label: members}) if members else []

    def open(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions that state no value of the concept's label: no thing at all, or no style."""
        if self.label == "thing":
            return prompts(self.things, n, seed=seed, frames=THINGLESS)
        frames = [frame for frame in HELD_OUT if self.label not in gaps(frame)]
        return self._without(n, lambda k: prompts(self.things, k, seed=seed, frames=frames))

    def neutral(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return the captions of ``open``: this world has enough held-out wordings."""
        return self.open(n, seed=seed)

    def goals(self, opened: Sequence[EmojiPrompt]) -> list[EmojiPrompt]:
        """Return captions with the values of open captions that also name the concept, its members in turn.

        Raises:
            ValueError: If a caption states the concept's label.
        """
        members = self.concept.members
        return [self._goal(prompt, members[i % len(members)]) for i, prompt in enumerate(opened)]

    def kept(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions without the concept, with any words for the things."""
        return self._without(n, lambda k: self._kept(k, seed=seed, words="any"))

    def rare(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions without the concept that say every value of its label by the held-out word."""
        return self._without(n, lambda k: self._kept(k, seed=seed, words="unseen", fixed={self.label: self.others}))

    def binding(self, n: int, *, attributes: int, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions without the concept that state a thing, and so many of style and background.

        Raises:
            ValueError: If no wording states that many.
        """
        frames = [frame for frame in HELD_OUT if len(gaps(frame)) == attributes + 1]
        if not frames:
            raise ValueError(f"expected a number of attributes among {self.attributes}, found {attributes}")
        return self._without(n, lambda k: self._kept(k, seed=seed, frames=frames))

    def near(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions that state neighbours in turn; none if there is no neighbour."""
        return self._stating(self._near, n, seed)

    def far(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` captions that state other values than the concept, its border and its neighbours."""
        near = self.concept.near(self.things)
        return self._stating([value for value in self.others if value not in near], n, seed)

    def everyday(self, n: int, *, part: Part, seed: int) -> list[tuple[str, EmojiPrompt]]:
        """Return kind of wording and prompt of ``n`` everyday wordings without the concept; all wordings take turns."""
        frames = [(kind, frame) for kind, texts in PARTS[part].items() for frame in texts]
        rng = np.random.default_rng(seed)
        turns = list(_turns(frames, n, rng))
        found = self._worded((frame for _, frame in turns), rng)
        return [(kind, prompt) for (kind, _), prompt in zip(turns, found, strict=True)]

    def everyday_near(self, n: int, *, seed: int) -> list[EmojiPrompt]:
        """Return ``n`` prompts in reported everyday wordings that state a neighbour; none if there is no neighbour."""
        if not self._near:
            return []
        frames = [("", frame) for texts in PARTS["reported"].values() for frame in texts if self.label in gaps(frame)]
        rng = np.random.default_rng(seed)
        turns = (frame for _, frame in _turns(frames, n, rng))
        return self._worded(turns, rng, fixed={self.label: self._near})

    def negatives(self, n: int, *, seed: int) -> list[str]:
        """Return a negative prompt of each of ``abused`` for each of ``n`` captions.

        They are the concept's name, a member's further name, a member's held-out name, and the members by their names.
        A concept with one member has all its words in place of the last one.
        """
        rng = np.random.default_rng(seed)
        members, every = self.concept.members, self.concept.words(self.things, held_out=True)
        whole = ", ".join(members if len(members) > 1 else every)
        # One list of words for each member, so that members are equally frequent, whatever their number of words.
        lists: dict[str, list[tuple[str, ...]]] = {"name": [(self.name,)], "all": [(whole,)]}
        lists |= {"seen": self._words("seen"), "unseen": self._words("unseen")}
        drawn = (_picked(lists[kind], rng) for _ in range(n) for kind in self.abused)
        return [_picked(words, rng) for words in drawn]

    @property
    def abused(self) -> tuple[str, ...]:
        """The kinds of negative prompts; without ``seen`` if no member has a further name."""
        return tuple(kind for kind in ("name", "seen", "unseen", "all") if kind != "seen" or self._words("seen"))

    def _words(self, choice: WordChoice) -> list[tuple[str, ...]]:
        """Return the words of a choice for each member that has some."""
        members = self.concept.members_with(self.things, choice)
        return [words_by_choice(value_words(self.things, self.label, member), choice) for member in members]

    @cached_property
    def _near(self) -> tuple[str, ...]:
        """The neighbours whose names do not mention the concept: no kept text can state the others."""
        return tuple(value for value in self.concept.near(self.things) if not self._said.search(value))

    @cached_property
    def _excluded(self) -> dict[str, tuple[str, ...]]:
        return {self.label: (*self.concept.members, *self.concept.border)}

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The values of the concept's label that are neither members nor on the border."""
        known = {"thing": self.things.names, "style": tuple(STYLES), "background": tuple(BACKGROUNDS)}
        return tuple(value for value in known[self.label] if value not in self._excluded[self.label])

    def _kept(
        self,
        n: int,
        *,
        seed: int,
        words: WordChoice = "name",
        frames: Sequence[str] = HELD_OUT,
        fixed: Mapping[str, Sequence[str]] | None = None,
    ) -> list[EmojiPrompt]:
        excluded = self._excluded
        return prompts(self.things, n, seed=seed, words=words, frames=frames, fixed=fixed, exclude=excluded)

    def _stating(self, values: Sequence[str], n: int, seed: int) -> list[EmojiPrompt]:
        if not values:
            return []
        return self._without(n, lambda k: self._kept(k, seed=seed, fixed={self.label: values}))

    def _without(self, n: int, make: Callable[[int], list[EmojiPrompt]]) -> list[EmojiPrompt]:
        """Return the first ``n`` texts that say no word of the concept, of as many as it takes."""
        drawn = n
        while len(found := [prompt for prompt in make(drawn) if self._silent(prompt)]) < n:
            drawn *= 2
            if drawn > _TRIES * n:
                raise ValueError(f"expected texts that say nothing of {self.name!r}, found hardly any; check its words")
        return found[:n]

    def _worded(
        self, frames: Iterable[str], rng: np.random.Generator, *, fixed: Mapping[str, Sequence[str]] | None = None
    ) -> list[EmojiPrompt]:
        """Return a text without the concept in each wording, by canonical names."""
        return [self._single(frame, rng, fixed) for frame in frames]

    def _single(self, frame: str, rng: np.random.Generator, fixed: Mapping[str, Sequence[str]] | None) -> EmojiPrompt:
        for _ in range(_TRIES):
            (prompt,) = self._kept(1, seed=int(rng.integers(2**31)), frames=(frame,), fixed=fixed)
            if self._silent(prompt):
                return prompt
        raise ValueError(
            f"expected a text that says nothing of {self.name!r} as {frame!r}, found none; check the wording"
        )

    def _silent(self, prompt: EmojiPrompt) -> bool:
        return not self._said.search(prompt.text)

    @cached_property
    def _said(self) -> re.Pattern[str]:
        return mentions(self.concept.unspoken(self.things))

    def _goal(self, prompt: EmojiPrompt, member: str) -> EmojiPrompt:
        if self.label in prompt.expected:
            raise ValueError(f"expected a caption that leaves the {self.label} open, found {prompt.text!r}")
        values = {**prompt.expected, self.label: member}
        frame = next(frame for frame in (*HELD_OUT, *TRAINING) if {*gaps(frame)} == {*values})
        any_value = {"thing": self.things.names[0], "style": next(iter(STYLES)), "background": next(iter(BACKGROUNDS))}
        whole = {**any_value, **values}
        scene = Scene(self.things.by_name[whole["thing"]], whole["style"], whole["background"])
        return filled(frame, scene, {label: words_of(scene, label)[0] for label in LABELS})


def _picked(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _turns(frames: Sequence[tuple[str, str]], n: int, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield ``n`` wordings: all in a random order, then all in another one."""
    for start in range(0, n, len(frames)):
        for place in rng.permutation(len(frames))[: n - start]:
            yield frames[int(place)]
