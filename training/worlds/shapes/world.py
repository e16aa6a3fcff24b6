"""The shapes world as an embedded base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from robust_encoders.concepts import Concept
from robust_encoders.hub.embedded import embedded_pipeline

from .concepts import CONCEPTS, shapes_concept
from .corpus import ShapesCorpus
from .retain import retain_prompts, retain_prompts_of_all


class ShapesWorld:
    """The embedded base that comes with the package: pictures of a coloured shape, in a style, on a background."""

    name: ClassVar[str] = "shapes"
    license: ClassVar[str] = "apache-2.0"

    def pipeline(self) -> Any:
        """Return the pipeline, on the CPU."""
        return embedded_pipeline()

    def corpus(self) -> ShapesCorpus:
        """Return the data that the base is trained on."""
        return ShapesCorpus()

    def concept(self, name: str, *, anchored: bool = False) -> Concept:
        """Return a concept with its captions; if ``anchored``, with the anchor of the shipped encoders.

        Raises:
            ValueError: If the world has no such value.
        """
        shipped = CONCEPTS.get(name) if anchored else None
        return shipped or shapes_concept(name)

    def retain_prompts(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """Return captions that name none of the concepts, near each of them and far.

        Raises:
            ValueError: If the world has no such value.
        """
        return retain_prompts(concepts[0]) if len(concepts) == 1 else retain_prompts_of_all(concepts)
