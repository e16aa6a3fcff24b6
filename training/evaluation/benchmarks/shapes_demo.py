"""The prompts and the judge of the demo, from the shapes world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...detectors.label_judge import LabelJudge
from ...metrics.retention import not_as_asked
from ...protocols import Detector
from ...types import Case
from ...worlds.shapes.captions import ScenePrompt, WordChoice, scene_prompts
from ...worlds.shapes.concepts import ShapesConcept
from ...worlds.shapes.judge import load_judge
from .shapes_detectors import AGREED, shapes_detector

_WORDS: Mapping[str, WordChoice] = {
    "Plain prompts, by the concept's name": "name",
    "Synonyms that training saw": "seen",
    "A synonym that training never saw": "unseen",
}


@dataclass(frozen=True)
class ShapesDemo:
    """The prompts and the judge of the demo in the shapes world.

    Args:
        erased: Erased concept.
        judge: Judge that looks at the pictures.
    """

    name: ClassVar[str] = "shapes"
    about: ClassVar[str] = "a small Stable Diffusion of shapes"

    erased: ShapesConcept
    judge: LabelJudge

    @classmethod
    def load(cls, concept: str) -> ShapesDemo:
        """Return the demo of a concept with the packaged judge.

        Raises:
            ValueError: If the world has no such concept.
            AssetsMissingError: If the package was installed without its assets.
        """
        return cls(ShapesConcept.parse(concept), load_judge())

    @property
    def concept(self) -> str:
        """Name of the concept."""
        return self.erased.value

    @property
    def detector(self) -> Detector:
        """Detector of the concept."""
        return shapes_detector(AGREED, self.erased.value, self.erased.concept, self.judge)

    def named(self, n: int, *, seed: int) -> dict[str, list[Case]]:
        """Return title to ``n`` cases that state the concept, plain prompts first; each title has its own seed."""
        fixed = self.erased.stated
        return {
            title: _cases(scene_prompts(n, seed=seed + i, fixed=fixed, words=words), seed + i)
            for i, (title, words) in enumerate(_WORDS.items())
        }

    def kept(self, n: int, *, seed: int) -> list[Case]:
        """Return ``n`` cases that do not state the concept."""
        seed += len(_WORDS)
        return _cases(scene_prompts(n, seed=seed, exclude=self.erased.stated), seed)

    def instead(self, images: Tensor, cases: Sequence[Case]) -> list[str]:
        """Return what pictures (B, 3, H, W) in [0, 1] show instead of the requested values; empty if as requested."""
        return not_as_asked(self.judge, images, cases)


def _cases(prompts: Sequence[ScenePrompt], seed: int) -> list[Case]:
    return [Case(i, p.text, 1000 * seed + i, p.expected) for i, p in enumerate(prompts)]
