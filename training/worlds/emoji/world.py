"""The emoji world as an embedded base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from robust_encoders.concepts import Concept
from robust_encoders.hub.embedded import embedded_pipeline

from .concepts import emoji_concept
from .retain import retain_prompts
from .things import load_things


class EmojiWorld:
    """The embedded base with real words: a thing in one of four drawing styles, on a background."""

    name: ClassVar[str] = "emoji"
    license: ClassVar[str] = "apache-2.0"

    def pipeline(self) -> Any:
        """Return the pipeline, on the CPU.

        Raises:
            AssetsMissingError: If the package was installed without the base.
        """
        return embedded_pipeline("emoji")

    def concept(self, name: str, *, anchored: bool = False) -> Concept:
        """Return a concept with its captions; if ``anchored``, with the anchor of the shipped encoders.

        Raises:
            ValueError: If the world has no such concept.
        """
        return emoji_concept(name).concept(load_things(), anchored=anchored)

    def retain_prompts(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """Return captions that name none of the concepts, near each of them and far.

        Raises:
            ValueError: If the world has no such concept.
        """
        return retain_prompts(concepts)
