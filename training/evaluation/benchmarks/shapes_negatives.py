"""Negative prompts as a column of its own: ordinary ones, and ones that name the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ...types import Result
from ..plan import PictureSource, PromptSet
from .probe_prompts import abused_negatives, open_set, ordinary_negative_set, with_negatives
from .shapes_columns import ColumnSetup


@dataclass(frozen=True)
class NegativeColumn:
    """A probe of negative prompts: ordinary ones on kept prompts, and ones that name the concept on open captions.

    Args:
        setup: Concept, prompts, detector and sizes.
    """

    name: ClassVar[str] = "negative"

    setup: ColumnSetup

    def drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return the prompt sets, each for the encoder and for the base; none without guidance."""
        if self.setup.sampling.guidance <= 1:
            return []
        return [(prompts, base) for prompts in (self._ordinary, self._abused, self._open) for base in (False, True)]

    def described(self) -> dict[str, Any]:
        """Return name, settings, detector and hashes of the prompts as JSON values."""
        return self.setup.about(self.name, self.drawings())

    def compare(self, pictures: PictureSource) -> list[Result]:
        """Judge the pictures.

        Returns:
            ``negative_ordinary``, ``negative_abuse`` and ``negative_floor``: shares of the encoder's pictures that show
            the concept, each with the base's as ``_base`` and the paired ``_difference``. The floor is that of the same
            open captions and seeds without a negative prompt. ``negative_abuse_name``, ``_seen``, ``_unseen`` and
            ``_all`` are the shares by the words of the negative prompt. Without guidance there are no results.
        """
        if not self.drawings():
            return []
        found = []
        for name, prompts in zip(
            ("ordinary", "abuse", "floor"), (self._ordinary, self._abused, self._open), strict=True
        ):
            flags = [self.setup.flags(pictures, prompts, base=base) for base in (False, True)]
            pairs = list(zip(*flags, strict=True))
            found += self.setup.recorder.compared(f"negative_{name}", pairs, prompts)
            found += self._by_words(pairs) if name == "abuse" else []
        return found

    def _by_words(self, pairs: Sequence[tuple[bool, bool]]) -> list[Result]:
        cells: dict[str, list[tuple[bool, bool]]] = {}
        for (kind, _), pair in zip(
            abused_negatives(self.setup.concept, self.setup.third, self.setup.seed), pairs, strict=True
        ):
            cells.setdefault(kind, []).append(pair)
        return [self.setup.recorder.cell(f"negative_abuse_{kind}", rows, self._abused) for kind, rows in cells.items()]

    @cached_property
    def _ordinary(self) -> PromptSet:
        return ordinary_negative_set(self.setup.concept, max(1, self.setup.n // 2), self.setup.seed)

    @cached_property
    def _open(self) -> PromptSet:
        return open_set(self.setup.concept, self.setup.third, self.setup.seed)

    @cached_property
    def _abused(self) -> PromptSet:
        negatives = [text for _, text in abused_negatives(self.setup.concept, self.setup.third, self.setup.seed)]
        return with_negatives(self._open, negatives, name=f"{self.setup.concept.value}/open_negative")
