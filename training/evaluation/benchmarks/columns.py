"""Success without a search: by another seed, by another scheduler or guidance scale, by a negative prompt, by chance.

Each is a column of its own with its own floor, and never a part of a worst case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from ...diffusion.sampling import SamplingConfig
from ...metrics.rates import detect, rate
from ...protocols import Detector
from ...types import Result
from ..plan import PictureSource, PromptSet
from .picture_results import Recorder
from .world_prompts import WorldPrompts, numbered, repeated, seed_of

SEEDS = 16
SCHEDULERS: Mapping[str, str] = {
    "own": "",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
}
GUIDANCE_FACTORS = (0.5, 2.0)


@dataclass(frozen=True)
class ColumnSetup:
    """The part of a probe that all columns share.

    Args:
        prompts: Prompts of the world around the erased concept.
        attacked: Attacked prompts, which name the concept.
        n: Number of prompts of the evaluation's probes; every column takes a share of it.
        seed: Seed of prompts and pictures.
        sampling: Sampling of the evaluation.
        detector: Detector of the concept.
    """

    prompts: WorldPrompts
    attacked: PromptSet
    n: int
    seed: int
    sampling: SamplingConfig
    detector: Detector

    @property
    def few(self) -> int:
        """Number of prompts of which many pictures each are drawn: an eighth; 0 leaves these columns out."""
        return min(self.n // 8, len(self.attacked.cases))

    @property
    def sixth(self) -> int:
        """Number of open captions that are drawn with several negative prompts each: a sixth."""
        return max(1, self.n // 6)

    @property
    def recorder(self) -> Recorder:
        """Recorder of the results."""
        judge = self.detector
        return Recorder(self.seed, self.sampling, judge.name, judge.version, judge.threshold)

    def flags(self, pictures: PictureSource, prompts: PromptSet, *, base: bool = False) -> list[bool]:
        """Return one flag for each prompt: True if the detector finds the concept in its picture."""
        return detect(self.detector, pictures(prompts, base=base))

    def about(self, name: str, drawings: Sequence[tuple[PromptSet, bool]]) -> dict[str, Any]:
        """Return name, settings, detector and hashes of the prompts as JSON values."""
        detector = {"name": self.detector.name, "version": self.detector.version, "threshold": self.detector.threshold}
        settings = {"n": self.n, "seed": self.seed, "sampling": asdict(self.sampling)}
        prompts = {prompts.name: prompts.sha256 for prompts, _ in drawings}
        about = {"name": name, "concept": self.prompts.name, "settings": settings}
        return {**about, "detector": detector, "prompts": prompts}


@dataclass(frozen=True)
class SeedsColumn:
    """A probe of unattacked prompts with 16 seeds: how often does any of the pictures show the concept?

    Args:
        setup: Concept, prompts, detector and sizes.
    """

    name: ClassVar[str] = "seeds"

    setup: ColumnSetup

    def drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return the prompts with 16 seeds by the encoder, and open captions likewise by encoder and base."""
        if not self.setup.few:
            return []
        return [(self._named, False), (self._open, False), (self._open, True)]

    def described(self) -> dict[str, Any]:
        """Return name, settings, detector and hashes of the prompts as JSON values."""
        return self.setup.about(self.name, self.drawings())

    def compare(self, pictures: PictureSource) -> list[Result]:
        """Judge the pictures.

        Returns:
            ``seeds``, the share of the prompts that show the concept with any of 16 seeds; ``seeds_floor`` and
            ``seeds_floor_base``, the same for open captions by encoder and base. Their settings hold the share of the
            single pictures. If the evaluation has fewer than 8 prompts for its probes, there are no results.
        """
        names = ("seeds", "seeds_floor", "seeds_floor_base")
        return [self._any(*row, pictures) for row in zip(names, self.drawings(), strict=False)]

    def _any(self, name: str, drawing: tuple[PromptSet, bool], pictures: PictureSource) -> Result:
        prompts, base = drawing
        flags = self.setup.flags(pictures, prompts, base=base)
        grouped = [any(flags[i : i + SEEDS]) for i in range(0, len(flags), SEEDS)]
        share = sum(flags) / len(flags)
        return self.setup.recorder.recorded(rate(name, grouped), prompts, seeds=SEEDS, pictures=share)

    @cached_property
    def _named(self) -> PromptSet:
        texts = [case.prompt for case in self.setup.attacked.cases[: self.setup.few]]
        return repeated("seeds", texts, SEEDS, of=self.setup.prompts.name, seed=self.setup.seed)

    @cached_property
    def _open(self) -> PromptSet:
        captions = self.setup.prompts.open(self.setup.few, seed=seed_of("seeds_open", self.setup.seed))
        return repeated(
            "seeds_open", [p.text for p in captions], SEEDS, of=self.setup.prompts.name, seed=self.setup.seed
        )


@dataclass(frozen=True)
class SchedulersColumn:
    """A probe of unattacked prompts under other schedulers and guidance scales, with their own seeds.

    Args:
        setup: Concept, prompts, detector and sizes.
    """

    name: ClassVar[str] = "schedulers"

    setup: ColumnSetup

    def drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return named prompts and open captions in every setting, by encoder and base."""
        return [(prompts, base) for sets in self._settings.values() for prompts in sets for base in (False, True)]

    def described(self) -> dict[str, Any]:
        """Return name, settings, detector and hashes of the prompts as JSON values."""
        return self.setup.about(self.name, self.drawings())

    def compare(self, pictures: PictureSource) -> list[Result]:
        """Judge the pictures.

        Returns:
            ``schedulers``, the share of the prompts that show the concept in any setting, ``schedulers_base`` of the
            base, and ``schedulers_floor`` and ``schedulers_floor_base`` for open captions. Then the encoder's rate in
            every setting, with the other three shares in its settings. If the evaluation has fewer than 8 prompts for
            its probes, there are no results.
        """
        if not self.setup.few:
            return []
        flags = {
            label: [self.setup.flags(pictures, prompts, base=base) for prompts in sets for base in (False, True)]
            for label, sets in self._settings.items()
        }
        first = next(iter(self._settings.values()))
        columns = zip(*flags.values(), strict=True)  # named by encoder, named by base, open by encoder, open by base
        names = ("schedulers", "schedulers_base", "schedulers_floor", "schedulers_floor_base")
        found = []
        for i, (name, rows) in enumerate(zip(names, columns, strict=True)):
            anywhere = [any(one) for one in zip(*rows, strict=True)]
            result = self.setup.recorder.recorded(rate(name, anywhere), first[i // 2], looks=list(flags))
            found.append(replace(result, unet_calls=self._calls))
        return [*found, *(self._single(label, rows) for label, rows in flags.items())]

    @property
    def _calls(self) -> int:
        sets = [named for named, _ in self._settings.values()]
        return sum(len(s.cases) * s.sampling.calls_per_picture for s in sets if s.sampling is not None)

    def _single(self, label: str, rows: Sequence[Sequence[bool]]) -> Result:
        own, *others = rows
        keys = ("base", "floor", "floor_base")
        shares = {key: sum(one) / len(one) for key, one in zip(keys, others, strict=True)}
        return self.setup.recorder.recorded(
            rate(f"schedulers_{label}", own), self._settings[label][0], calls=False, **shares
        )

    @cached_property
    def _settings(self) -> dict[str, tuple[PromptSet, PromptSet]]:
        """Label of a setting to named prompts and open captions."""
        if not self.setup.few:
            return {}
        named = replace(self.setup.attacked, cases=self.setup.attacked.cases[: self.setup.few])
        captions = self.setup.prompts.open(self.setup.few, seed=seed_of("schedulers_open", self.setup.seed))
        opened = numbered("schedulers_open", captions, of=self.setup.prompts.name, seed=self.setup.seed)
        made = {}
        for label, scheduler in SCHEDULERS.items():
            for factor in GUIDANCE_FACTORS:
                sampling = replace(self.setup.sampling, guidance=self.setup.sampling.guidance * factor)
                key = f"{label}_{sampling.guidance:g}"
                made[key] = tuple(
                    replace(one, name=f"{one.name}/{key}", sampling=sampling, scheduler=scheduler)
                    for one in (named, opened)
                )
        return {key: (one, other) for key, (one, other) in made.items()}
