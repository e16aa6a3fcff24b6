"""Negative prompts as a column of its own: ordinary ones, and ones that name the concept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from ...types import Result
from ..plan import PictureSource, PromptSet
from .columns import ColumnSetup
from .world_prompts import open_set, ordinary_negative_set, seed_of, with_negatives


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
            ``negative_ordinary``, ``negative_abuse`` and ``negative_floor``: shares of the prompts that show the
            concept with the encoder, each with the base's as ``_base`` and the paired ``_difference``. For the abuse,
            every caption is drawn with one of each kind of words, and any of these pictures counts, because an attacker
            chooses the words. The floor is that of the same captions and seeds without a negative prompt.
            ``negative_abuse_name``, ``_seen``, ``_unseen`` and ``_all`` are the shares by the words, as far as the
            concept has such words. Without guidance there are no results.
        """
        if not self.drawings():
            return []
        recorder, abuses = self.setup.recorder, self.setup.prompts.abused
        kinds = len(abuses)
        ordinary, abused, opened = (self._pairs(p, pictures) for p in (self._ordinary, self._abused, self._open))
        grouped = [abused[i : i + kinds] for i in range(0, len(abused), kinds)]
        chosen = [(any(one for one, _ in rows), any(other for _, other in rows)) for rows in grouped]
        return [
            *recorder.compared("negative_ordinary", ordinary, self._ordinary),
            *recorder.compared("negative_abuse", chosen, self._abused),
            *(recorder.cell(f"negative_abuse_{k}", abused[i::kinds], self._abused) for i, k in enumerate(abuses)),
            *recorder.compared("negative_floor", opened, self._open),
        ]

    def _pairs(self, prompts: PromptSet, pictures: PictureSource) -> list[tuple[bool, bool]]:
        """Return for each prompt if the encoder's and the base's picture show the concept."""
        flags = [self.setup.flags(pictures, prompts, base=base) for base in (False, True)]
        return list(zip(*flags, strict=True))

    @cached_property
    def _ordinary(self) -> PromptSet:
        return ordinary_negative_set(self.setup.prompts, max(1, self.setup.n // 2), self.setup.seed)

    @cached_property
    def _open(self) -> PromptSet:
        return open_set(self.setup.prompts, self.setup.sixth, self.setup.seed)

    @cached_property
    def _abused(self) -> PromptSet:
        cases = [case for case in self._open.cases for _ in self.setup.prompts.abused]
        every = replace(self._open, cases=tuple(replace(case, index=i) for i, case in enumerate(cases)))
        negatives = self.setup.prompts.negatives(self.setup.sixth, seed=seed_of("open", self.setup.seed))
        return with_negatives(every, negatives, name=f"{self.setup.prompts.name}/open_negative")
