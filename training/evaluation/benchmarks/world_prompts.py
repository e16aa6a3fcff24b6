"""What the probes of an embedded world ask of it: prompts around one concept, and a judge of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from ...detectors.label_judge import LabelJudge
from ...protocols import Detector
from ...types import Case
from ..plan import PromptSet
from .chance_pool import at_seeds

# Negative prompts as users write them for a better picture; none of them names a value of a world.
ORDINARY_NEGATIVES = ("blurry", "low quality", "ugly", "deformed", "text, watermark", "noise", "cropped", "bad art")
ABUSED = ("name", "seen", "unseen", "all")  # kinds of words of a concept that a negative prompt names
Part = Literal["seen", "reported"]
_CAPTIONS_PER_SEED = 8
_FIRST_SEED = 10_000_000_000
_PLACES = {name: place for place, name in enumerate((
    "everyday", "everyday_seen", "everyday_negative", "everyday_rare", "everyday_near",
    "chance", "open", "seeds", "seeds_open", "schedulers_open",
))}  # fmt: skip


class StatedPrompt(Protocol):
    """A text with the values that a faithful picture of it shows."""

    @property
    def text(self) -> str:
        """Text of the prompt."""
        ...

    @property
    def expected(self) -> Mapping[str, str]:
        """Canonical values that the text states, by label of the judge."""
        ...


class WorldPrompts(Protocol):
    """The prompts of an embedded world around one concept, and the judge of its pictures.

    Equal seeds give equal prompts. Only ``negatives`` names the concept.
    """

    @property
    def name(self) -> str:
        """Name of the concept, with which names of prompt sets begin."""
        ...

    @property
    def label(self) -> str:
        """Label of the judge whose values the concept and its neighbours are, for example ``shape``."""
        ...

    @property
    def near_count(self) -> int:
        """Number of values that count as neighbours of the concept."""
        ...

    @property
    def attributes(self) -> Sequence[int]:
        """Numbers of attributes beside the object that captions of the world can state."""
        ...

    def judge(self) -> LabelJudge:
        """Return the trained judge of the package."""
        ...

    def found_by(self, judge: LabelJudge) -> Detector:
        """Return the detector that finds the concept where a judge sees it."""
        ...

    def open(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions in held-out wordings that state no value of the concept's label."""
        ...

    def neutral(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions in any wording that state no value of the concept's label."""
        ...

    def kept(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions in held-out wordings without the concept."""
        ...

    def rare(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions without the concept that use held-out words."""
        ...

    def everyday(self, n: int, *, part: Part, seed: int) -> Sequence[tuple[str, StatedPrompt]]:
        """Return the kind of wording and the prompt of ``n`` prompts in everyday wordings, without the concept."""
        ...

    def everyday_near(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` prompts in reported everyday wordings that state a neighbour; none if there is no neighbour."""
        ...

    def binding(self, n: int, *, attributes: int, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions without the concept that state so many attributes beside the object."""
        ...

    def near(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions that state neighbours in turn; none if there is no neighbour."""
        ...

    def far(self, n: int, *, seed: int) -> Sequence[StatedPrompt]:
        """Return ``n`` captions that state other values of the concept's label than it and its neighbours."""
        ...

    @property
    def abused(self) -> Sequence[str]:
        """Those of ``ABUSED`` that the concept has words for."""
        ...

    def negatives(self, n: int, *, seed: int) -> Sequence[str]:
        """Return negative prompts that name the concept for ``n`` captions: one of each of ``abused`` for each."""
        ...


def seed_of(name: str, seed: int) -> int:
    """Return the first of a million seeds that belong to one prompt set of one run.

    Args:
        name: Name of the prompt set.
        seed: Seed of the run.
    """
    return _FIRST_SEED + (seed * 100 + _PLACES[name]) * 1_000_000


def numbered(name: str, prompts: Iterable[StatedPrompt], *, of: str, seed: int) -> PromptSet:
    """Return prompts as a set whose pictures have seeds of their own.

    Args:
        name: Name of the set.
        prompts: Texts with the values that they state.
        of: Name of the erased concept.
        seed: Seed of the run.
    """
    first = seed_of(name, seed)
    return PromptSet(f"{of}/{name}", tuple(Case(i, p.text, first + i, p.expected) for i, p in enumerate(prompts)))


def repeated(name: str, texts: Sequence[str], times: int, *, of: str, seed: int) -> PromptSet:
    """Return every text several times in a row, each time with another seed; see ``numbered``."""
    first, every = seed_of(name, seed), [text for text in texts for _ in range(times)]
    return PromptSet(f"{of}/{name}", tuple(Case(i, text, first + i) for i, text in enumerate(every)))


def open_set(prompts: WorldPrompts, n: int, seed: int) -> PromptSet:
    """Return captions in any wording that name no value of the concept's label."""
    return numbered("open", prompts.neutral(n, seed=seed_of("open", seed)), of=prompts.name, seed=seed)


def pool_sets(prompts: WorldPrompts, attacked: PromptSet, n: int, seed: int) -> tuple[PromptSet, PromptSet]:
    """Return the empty prompt, and eight open captions, at the seed of each of the first ``n`` attacked prompts."""
    seeds = [case.seed for case in attacked.cases[:n]]
    captions = prompts.open(_CAPTIONS_PER_SEED * len(seeds), seed=seed_of("chance", seed))
    return at_seeds(f"{prompts.name}/chance", seeds, [p.text for p in captions])


def ordinary_negative_set(prompts: WorldPrompts, n: int, seed: int) -> PromptSet:
    """Return kept captions with the negative prompts of ``ORDINARY_NEGATIVES`` in turn."""
    name = "everyday_negative"
    kept = prompts.kept(n, seed=seed_of(name, seed))
    pushed = [ORDINARY_NEGATIVES[i % len(ORDINARY_NEGATIVES)] for i in range(n)]
    return with_negatives(numbered(name, kept, of=prompts.name, seed=seed), pushed)


def with_negatives(prompts: PromptSet, negatives: Sequence[str], *, name: str = "") -> PromptSet:
    """Return the same prompts and seeds with a negative prompt each.

    Args:
        prompts: Prompts and seeds.
        negatives: Negative prompts, one for each prompt.
        name: Name of the new set; by default the old one.
    """
    cases = (replace(case, negative=text) for case, text in zip(prompts.cases, negatives, strict=True))
    return replace(prompts, name=name or prompts.name, cases=tuple(cases))
