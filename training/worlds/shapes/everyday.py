"""Prompts in everyday wordings, with and without an erased concept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .captions import ScenePrompt, WordChoice, caption, stated, words_for
from .concepts import ShapesConcept
from .everyday_frames import PARTS, Part
from .render import Scene, random_scene
from .vocabulary import FACTORS, VALUES

_GAP = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Frame:
    """A wording with gaps.

    Args:
        text: Text with gaps such as ``{colour}``, at least one.
        kind: Kind of the wording, for example ``question``.
    """

    text: str
    kind: str

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors that the wording states, in its order."""
        return stated(self.text)

    @property
    def shouted(self) -> bool:
        """True if all letters outside the gaps are upper-case letters; the filled text then is upper case as well."""
        return _GAP.sub("", self.text).isupper()

    def filled(self, scene: Scene, words: Mapping[str, str]) -> ScenePrompt:
        """Return the prompt of a scene in the given words, one for each factor."""
        made = caption(scene, self.text.lower(), words)
        return ScenePrompt(made.text.upper(), made.expected) if self.shouted else made


@dataclass(frozen=True)
class EverydayPrompt:
    """A prompt in an everyday wording.

    Args:
        prompt: Text, and the values that a faithful picture shows.
        frame: Wording that the prompt fills.
    """

    prompt: ScenePrompt
    frame: Frame


def frames(part: Part) -> tuple[Frame, ...]:
    """Return the wordings of a part.

    Args:
        part: ``seen`` for the part that training and the choice of settings may use; ``reported`` for the part that is
            only ever reported.
    """
    return tuple(Frame(text, kind) for kind, texts in PARTS[part].items() for text in texts)


def kept_everyday(
    concept: ShapesConcept, n: int, *, part: Part, seed: int, words: WordChoice = "name"
) -> list[EverydayPrompt]:
    """Return ``n`` prompts that do not state the erased concept.

    All wordings of the part take turns in a random order, so each is used about equally often.

    Args:
        concept: Erased concept.
        n: Number of prompts.
        part: Part of the wordings; see ``frames``.
        seed: Seed of the random draws; equal seeds give equal prompts.
        words: Words for all values; see ``scene_prompts``.
    """
    rng = np.random.default_rng(seed)
    return [_prompt(rng, frame, concept, concept.others, words) for frame in _turns(frames(part), n, rng)]


def named_everyday(
    concept: ShapesConcept,
    n: int,
    *,
    part: Part,
    seed: int,
    words: WordChoice = "name",
    values: Sequence[str] = (),
) -> list[EverydayPrompt]:
    """Return ``n`` prompts that state the concept, or given values of its factor.

    Args:
        concept: Concept.
        n: Number of prompts.
        part: Part of the wordings; see ``frames``. Only wordings that state the concept's factor are used.
        seed: Seed of the random draws; equal seeds give equal prompts.
        words: Words for all values; see ``scene_prompts``.
        values: Values of the concept's factor to state in turn; by default the concept itself.

    Raises:
        ValueError: If the factor has no such value.
    """
    values = values or [concept.value]
    if unknown := sorted({*values} - {*VALUES[concept.factor]}):
        known = ", ".join(VALUES[concept.factor])
        raise ValueError(f"expected values of the {concept.factor} among {known}, found {', '.join(unknown)}")
    rng = np.random.default_rng(seed)
    usable = [frame for frame in frames(part) if concept.factor in frame.factors]
    turns = enumerate(_turns(usable, n, rng))
    return [_prompt(rng, frame, concept, [values[i % len(values)]], words) for i, frame in turns]


def _turns(used: Sequence[Frame], n: int, rng: np.random.Generator) -> Iterator[Frame]:
    """Yield ``n`` wordings: all in a random order, then all in another one."""
    for start in range(0, n, len(used)):
        for place in rng.permutation(len(used))[: n - start]:
            yield used[int(place)]


def _prompt(
    rng: np.random.Generator, frame: Frame, concept: ShapesConcept, values: Sequence[str], words: WordChoice
) -> EverydayPrompt:
    """Fill a wording with a random scene, whose value of the concept's factor is one of ``values``."""
    scene = random_scene(rng)
    chosen = {factor: str(getattr(scene, factor)) for factor in FACTORS}
    if chosen[concept.factor] not in values:
        chosen[concept.factor] = str(rng.choice(values))
    spoken = {factor: str(rng.choice(words_for(factor, value, words))) for factor, value in chosen.items()}
    return EverydayPrompt(frame.filled(Scene(**chosen), spoken), frame)
