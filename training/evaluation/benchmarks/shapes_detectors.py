"""The detectors of a concept of the shapes world: two judges that work in different ways, and what both agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robust_encoders.concepts import Concept

from ...detectors.agreement import Agreement
from ...detectors.label_judge import JudgeDetector, LabelJudge
from ...protocols import Detector
from ...worlds.shapes.geometry import GeometryJudge
from ...worlds.shapes.judge import Judge
from ..choices import detector_named, refuse_unknown_detector

AGREED = "shapes_agreed"
_JUDGES: Mapping[str, Callable[[Judge], LabelJudge]] = {
    "shapes_judge": lambda trained: trained,
    "shapes_geometry": lambda _: GeometryJudge(),
}
SHAPES_DETECTORS = (AGREED, *_JUDGES)


def refuse_unknown_shapes_detector(name: str) -> None:
    """Check the name of a detector before anything is loaded.

    Raises:
        ValueError: If it is neither a detector of the shapes world nor a registered one.
    """
    if name not in SHAPES_DETECTORS:
        refuse_unknown_detector(name, SHAPES_DETECTORS)


def shapes_detector(name: str, value: str, concept: Concept, judge: LabelJudge) -> Detector:
    """Return a detector of a value of the shapes world.

    Args:
        name: ``shapes_agreed``, ``shapes_judge``, ``shapes_geometry``, or the name of a registered detector.
        value: Canonical value that is the concept.
        concept: The concept, for registered detectors.
        judge: The trained judge; any other one decides alone.

    Raises:
        ValueError: If there is no such detector.
    """
    if name not in SHAPES_DETECTORS:
        return detector_named(name, concept)
    if not isinstance(judge, Judge):
        return JudgeDetector(judge, value)
    if name == AGREED:
        return Agreement([JudgeDetector(make(judge), value) for make in _JUDGES.values()])
    return JudgeDetector(_JUDGES[name](judge), value)
