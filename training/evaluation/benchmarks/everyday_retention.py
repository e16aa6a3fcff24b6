"""Retention as people speak: everyday wordings, negative prompts, rare words and neighbours, against the base.

Base and encoder draw the same prompts with the same seeds, one picture each. The number that counts is the paired
difference, because the base itself does not follow every wording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ...detectors.label_judge import LabelJudge
from ...diffusion.sampling import SamplingConfig
from ...types import Case, Result
from ..plan import PictureSource, PromptSet
from .picture_results import Recorder
from .world_prompts import Part, StatedPrompt, WorldPrompts, numbered, ordinary_negative_set, seed_of

_PARTS: Mapping[str, Part] = {"everyday": "reported", "everyday_seen": "seen"}


@dataclass(frozen=True)
class _Wording:
    """A prompt set with the kind of wording of each prompt, if there are kinds."""

    prompts: PromptSet
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class EverydayRetention:
    """A probe of kept prompts in other words than those of the caption templates.

    Args:
        prompts: Prompts of the world around the erased concept.
        n: Number of prompts in the reported wordings; every other set has half as many.
        seed: Seed of prompts and pictures.
        sampling: Sampling settings of all pictures.
        judge: Judge instead of the packaged one.

    Raises:
        ValueError: If ``n`` is below 2.
    """

    name: ClassVar[str] = "everyday"

    prompts: WorldPrompts
    n: int = 200
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: LabelJudge | None = None

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"expected n of at least 2, found {self.n}: ask for more prompts")

    def drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return all prompt sets, each for the encoder and for the base."""
        return [(wording.prompts, base) for wording in self._wordings.values() for base in (False, True)]

    def described(self) -> dict[str, Any]:
        """Return name, settings and hashes of the prompts as JSON values."""
        judge = self.judge or self.prompts.judge()
        settings = {"n": self.n, "seed": self.seed, "sampling": asdict(self.sampling), "near": self.prompts.near_count}
        return {
            "name": self.name,
            "concept": self.prompts.name,
            "settings": settings,
            "judge": [judge.name, judge.version],
            "prompts": {name: wording.prompts.sha256 for name, wording in self._wordings.items()},
        }

    def compare(self, pictures: PictureSource) -> list[Result]:
        """Judge the pictures.

        Returns:
            For each of ``everyday`` (reported wordings), ``everyday_seen``, ``everyday_negative``, ``everyday_rare``
            and ``everyday_near``: the share of the encoder's pictures as asked, the base's as ``_base``, and the
            ``_difference``. The same for ``everyday_factor``, which asks only for the concept's factor. Cells of the
            reported wordings: ``everyday_1`` to ``everyday_4`` by the number of stated attributes, and one for each
            kind of wording; their settings hold the base's share and the paired test. Cells of the seen wordings are
            ``everyday_seen_`` and the kind.
        """
        found: list[Result] = []
        for name, wording in self._wordings.items():
            found += self._compared(name, wording, [pictures(wording.prompts, base=base) for base in (False, True)])
        return found

    def _compared(self, name: str, wording: _Wording, drawn: Sequence[Tensor]) -> list[Result]:
        judge, prompts = self.judge or self.prompts.judge(), wording.prompts
        recorder = Recorder(self.seed, self.sampling, judge.name, judge.version)
        pairs = self._pairs(drawn, prompts.cases)
        found = recorder.compared(name, pairs, prompts)
        cells: dict[str, list[int]] = {}
        for i, case in enumerate(prompts.cases if name == "everyday" else ()):
            cells.setdefault(f"{name}_{len(case.expected)}", []).append(i)
        for i, kind in enumerate(wording.kinds):
            cells.setdefault(f"{name}_{kind.replace(' ', '_')}", []).append(i)
        found += [recorder.cell(cell, [pairs[i] for i in rows], prompts) for cell, rows in sorted(cells.items())]
        stating = [i for i, case in enumerate(prompts.cases) if self.prompts.label in case.expected]
        if name != "everyday" or not stating:
            return found
        alone = self._pairs(drawn, prompts.cases, only=self.prompts.label)
        factor = recorder.compared(f"{name}_factor", [alone[i] for i in stating], prompts)
        return [*found, *(replace(result, unet_calls=0) for result in factor)]

    def _pairs(self, drawn: Sequence[Tensor], cases: Sequence[Case], *, only: str = "") -> list[tuple[bool, bool]]:
        """Return for each prompt if the encoder's and the base's picture are as asked, in one factor or in all."""
        judge = self.judge or self.prompts.judge()
        flags = []
        for pictures in drawn:
            shown = judge(pictures)
            flags.append([
                all(shown[f][i] == value for f, value in case.expected.items() if only in ("", f))
                for i, case in enumerate(cases)
            ])  # fmt: skip
        return list(zip(*flags, strict=True))

    @cached_property
    def _wordings(self) -> dict[str, _Wording]:
        half, made = max(1, self.n // 2), {}
        for name, part in _PARTS.items():
            n = self.n if part == "reported" else half
            made[name] = self._worded(name, self.prompts.everyday(n, part=part, seed=seed_of(name, self.seed)))
        if self.sampling.guidance > 1:  # without guidance there is no negative prompt
            made["everyday_negative"] = _Wording(ordinary_negative_set(self.prompts, half, self.seed))
        for name, prompts in (("everyday_rare", self.prompts.rare), ("everyday_near", self.prompts.everyday_near)):
            if found := prompts(half, seed=seed_of(name, self.seed)):
                made[name] = _Wording(numbered(name, found, of=self.prompts.name, seed=self.seed))
        return made

    def _worded(self, name: str, worded: Sequence[tuple[str, StatedPrompt]]) -> _Wording:
        texts = numbered(name, (prompt for _, prompt in worded), of=self.prompts.name, seed=self.seed)
        return _Wording(texts, tuple(kind for kind, _ in worded))
