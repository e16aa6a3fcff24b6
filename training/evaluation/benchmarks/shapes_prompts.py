"""The prompts of the shapes world around one concept, for the probes of its benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...detectors.label_judge import JudgeDetector, LabelJudge
from ...protocols import Detector
from ...worlds.shapes.captions import ScenePrompt, WordChoice, scene_prompts, words_for
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.everyday import kept_everyday, named_everyday
from ...worlds.shapes.judge import load_judge
from ...worlds.shapes.prompts import Neighbours, binding_prompts, neighbours, open_prompts, value_prompts
from .world_prompts import ABUSED, Part


@dataclass(frozen=True)
class ShapesPrompts:
    """The prompts of ``WorldPrompts`` in the shapes world, where every value is one word.

    Args:
        concept: Concept of the prompts.
        near_count: Number of values that count as neighbours of the concept.
    """

    attributes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    abused: ClassVar[tuple[str, ...]] = ABUSED

    concept: ShapesConcept
    near_count: int = 2

    @property
    def name(self) -> str:
        """Value that is the concept."""
        return self.concept.value

    @property
    def label(self) -> str:
        """Factor of the concept."""
        return self.concept.factor

    def judge(self) -> LabelJudge:
        """Return the trained judge of the package."""
        return load_judge()

    def found_by(self, judge: LabelJudge) -> Detector:
        """Return the detector of the value by a judge."""
        return JudgeDetector(judge, self.concept.value)

    def open(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions in held-out templates that leave the factor open."""
        return open_prompts(self.concept, n, seed=seed)

    def neutral(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions in any template that name no value of the factor.

        The held-out templates alone leave a style open in one wording only. Every template names a shape, so concepts
        that are shapes use ``open_prompts``.
        """
        # At least one caption in five leaves a factor open, so forty times as many are enough for any n.
        found = (p for p in scene_prompts(40 * n, seed=seed, templates="all", words="name"))
        neutral = [p for p in found if self.concept.factor not in p.expected][:n]
        return neutral or self.open(n, seed=seed)

    def kept(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions in held-out templates without the concept."""
        return scene_prompts(n, seed=seed, exclude=self.concept.stated)

    def rare(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions without the concept that say every value by its held-out word."""
        return scene_prompts(n, seed=seed, words="unseen", exclude=self.concept.stated)

    def everyday(self, n: int, *, part: Part, seed: int) -> list[tuple[str, ScenePrompt]]:
        """Return kind and prompt of ``n`` everyday wordings without the concept."""
        return [(one.frame.kind, one.prompt) for one in kept_everyday(self.concept, n, part=part, seed=seed)]

    def everyday_near(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` prompts in reported everyday wordings that state the neighbours in turn."""
        made = named_everyday(self.concept, n, part="reported", seed=seed, values=self._around.near)
        return [one.prompt for one in made]

    def binding(self, n: int, *, attributes: int, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions of a shape with so many attributes, without the concept."""
        return binding_prompts(n, attributes=attributes, seed=seed, exclude=self.concept.stated)

    def near(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions that name the nearest values of the factor in turn."""
        return value_prompts(self._around.near, n, seed=seed)

    def far(self, n: int, *, seed: int) -> list[ScenePrompt]:
        """Return ``n`` captions that name the other values of the factor in turn."""
        return value_prompts(self._around.far, n, seed=seed)

    def negatives(self, n: int, *, seed: int) -> list[str]:
        """Return the name, a synonym that training may use, the held-out synonym, and all words, for each caption."""
        rng = np.random.default_rng(seed)
        choices: tuple[WordChoice, ...] = ("name", "seen", "unseen")
        spoken: list[Sequence[str]] = [words_for(self.concept.factor, self.concept.value, choice) for choice in choices]
        spoken.append((", ".join(self.concept.words),))
        return [str(rng.choice(words)) for _ in range(n) for words in spoken]

    @property
    def _around(self) -> Neighbours:
        return neighbours(self.concept, k=self.near_count)
