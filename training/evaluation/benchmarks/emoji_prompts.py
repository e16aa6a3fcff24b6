"""The prompts of the emoji world around one concept, for the probes of its benchmark."""

from __future__ import annotations

from ...detectors.label_judge import LabelJudge
from ...protocols import Detector
from ...worlds.emoji.concept_prompts import PromptsAround
from ...worlds.emoji.judge import load_judge
from .emoji_detectors import by_trained


class EmojiPrompts(PromptsAround):
    """The prompts of ``WorldPrompts`` in the emoji world."""

    def judge(self) -> LabelJudge:
        """Return the trained judge of the package.

        Raises:
            AssetsMissingError: If the package was installed without the base.
        """
        return load_judge()

    def found_by(self, judge: LabelJudge) -> Detector:
        """Return the detector of the concept by a judge whose scores are probabilities."""
        return by_trained(self.concept, judge)
