"""The detectors of a concept of the emoji world: two judges that work in different ways, and what both agree on."""

from __future__ import annotations

from dataclasses import dataclass

from robust_encoders.concepts import Concept

from ...detectors.agreement import Agreement
from ...detectors.label_judge import GroupDetector, LabelJudge
from ...protocols import Detector
from ...worlds.emoji.concepts import EmojiConcept
from ...worlds.emoji.icon_judge import load_icon_judge
from ...worlds.emoji.judge import load_judge
from ..choices import detector_named, refuse_unknown_detector

EMOJI_AGREED = "emoji_agreed"
EMOJI_DETECTORS = (EMOJI_AGREED, "emoji_judge", "emoji_icons")


@dataclass(frozen=True)
class EmojiJudges:
    """The two judges of the world.

    Args:
        trained: Judge that was trained on renders.
        icons: Judge that compares with icons and learns nothing.
    """

    trained: LabelJudge
    icons: LabelJudge

    @classmethod
    def load(cls) -> EmojiJudges:
        """Return the judges of the package.

        Raises:
            AssetsMissingError: If the package was installed without the base.
        """
        return cls(load_judge(), load_icon_judge())


def refuse_unknown_emoji_detector(name: str) -> None:
    """Check the name of a detector before anything is loaded.

    Raises:
        ValueError: If it is neither a detector of the emoji world nor a registered one.
    """
    if name not in EMOJI_DETECTORS:
        refuse_unknown_detector(name, EMOJI_DETECTORS)


def by_trained(erased: EmojiConcept, judge: LabelJudge) -> GroupDetector:
    """Return the detector of a concept by a judge whose scores are probabilities: those of all members add up."""
    return GroupDetector(judge, erased.name, attribute=erased.label, values=erased.members, exclusive=True)


def by_icons(erased: EmojiConcept, judge: LabelJudge) -> GroupDetector:
    """Return the detector of a concept by a judge that compares: the member that fits best counts."""
    return GroupDetector(judge, erased.name, attribute=erased.label, values=erased.members, exclusive=False)


def emoji_detector(name: str, erased: EmojiConcept, concept: Concept, judges: EmojiJudges | None = None) -> Detector:
    """Return a detector of a concept of the emoji world.

    Args:
        name: ``emoji_agreed``, ``emoji_judge``, ``emoji_icons``, or the name of a registered detector.
        erased: Concept of the world.
        concept: The concept, for registered detectors.
        judges: Judges instead of the packaged ones.

    Raises:
        ValueError: If there is no such detector.
        AssetsMissingError: If the package was installed without the base.
    """
    if name not in EMOJI_DETECTORS:
        return detector_named(name, concept)
    judges = judges or EmojiJudges.load()
    found = {"emoji_judge": by_trained(erased, judges.trained), "emoji_icons": by_icons(erased, judges.icons)}
    return Agreement([*found.values()]) if name == EMOJI_AGREED else found[name]
