"""The prompts and the judge of the demo, from the emoji world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...detectors.label_judge import LabelJudge
from ...metrics.retention import not_as_asked
from ...protocols import Detector
from ...types import Case
from ...worlds.emoji.captions import EmojiPrompt, prompts
from ...worlds.emoji.concept_prompts import PromptsAround
from ...worlds.emoji.concepts import EmojiConcept, emoji_concept
from ...worlds.emoji.judge import load_judge
from ...worlds.emoji.things import Things, WordChoice, load_things

_WORDS: Mapping[str, WordChoice] = {
    "Plain prompts, by the usual names": "name",
    "Other names for it, which the encoder's training saw": "seen",
    "Names for it that the encoder's training never saw": "unseen",
}


@dataclass(frozen=True)
class EmojiDemo:
    """The prompts and the judge of the demo in the emoji world.

    Args:
        erased: Erased concept.
        things: Things of the world.
        judge: Judge that looks at the pictures of kept prompts.
        detector: Detector of the concept.
    """

    name: ClassVar[str] = "emoji"
    about: ClassVar[str] = "a small Stable Diffusion of emoji"

    erased: EmojiConcept
    things: Things
    judge: LabelJudge
    detector: Detector

    @classmethod
    def load(cls, concept: str, detector: Detector) -> EmojiDemo:
        """Return the demo of a concept with the packaged things and the packaged trained judge.

        Args:
            concept: Name of the concept.
            detector: Detector of the concept.

        Raises:
            ValueError: If the world has no such concept.
            AssetsMissingError: If the package was installed without the base.
        """
        return cls(emoji_concept(concept), load_things(), load_judge(), detector)

    @property
    def concept(self) -> str:
        """Name of the concept."""
        return self.erased.name

    def named(self, n: int, *, seed: int) -> dict[str, list[Case]]:
        """Return title to ``n`` cases that state the concept, plain prompts first; each title has its own seed.

        Other names are left out if no member of the concept has any.
        """
        around = PromptsAround(self.erased, self.things)
        found = {
            title: _cases(around.named(n, seed=seed + i, words=words), seed + i)
            for i, (title, words) in enumerate(_WORDS.items())
        }
        return {title: cases for title, cases in found.items() if cases}

    def kept(self, n: int, *, seed: int) -> list[Case]:
        """Return ``n`` cases that state a neighbour of the concept, which must stay; without one, another thing."""
        seed += len(_WORDS)
        erased = (*self.erased.members, *self.erased.border)
        others = self.erased.neighbours or tuple(name for name in self.things.names if name not in erased)
        return _cases(prompts(self.things, n, seed=seed, fixed={self.erased.label: others}), seed)

    def instead(self, images: Tensor, cases: Sequence[Case]) -> list[str]:
        """Return what pictures (B, 3, H, W) in [0, 1] show instead of the requested values; empty if as requested."""
        return not_as_asked(self.judge, images, cases)


def _cases(found: Sequence[EmojiPrompt], seed: int) -> list[Case]:
    return [Case(i, p.text, 1000 * seed + i, p.expected) for i, p in enumerate(found)]
