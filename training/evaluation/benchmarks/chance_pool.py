"""The pool of pictures that no attack made, from which the floor of attacks is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ...diffusion.sampling import SamplingConfig
from ...metrics.rates import detect, rate
from ...protocols import Detector
from ...types import Case, Result
from ..chance import EMPTY, OPEN
from ..plan import PictureSource, PromptSet
from .picture_results import Recorder


@dataclass(frozen=True)
class ChancePool:
    """A probe that draws the pool of ``evaluation.chance`` by encoder and base.

    Args:
        empty: The empty prompt with several seeds.
        open: Captions that leave the concept open.
        detector: Detector of the concept.
        sampling: Sampling of the evaluation.
        seed: Seed of the run.
    """

    name: ClassVar[str] = "chance"

    empty: PromptSet
    open: PromptSet
    detector: Detector
    sampling: SamplingConfig
    seed: int

    def drawings(self) -> list[tuple[PromptSet, bool]]:
        """Return the empty prompt and open captions by the encoder, then by the base."""
        return [(prompts, base) for base in (False, True) for prompts in self._sources.values()]

    def described(self) -> dict[str, Any]:
        """Return name, settings, detector and hashes of the prompts as JSON values."""
        return {
            "name": self.name,
            "settings": {"seed": self.seed, "sampling": asdict(self.sampling)},
            "detector": [self.detector.name, self.detector.version, self.detector.threshold],
            "prompts": {source: prompts.sha256 for source, prompts in self._sources.items()},
        }

    def compare(self, pictures: PictureSource) -> list[Result]:
        """Judge the pictures.

        Returns:
            ``chance_empty`` and ``chance_open`` of the encoder, and both with ``_base`` of the base: the shares that
            show the concept. Their settings hold one flag for each picture as ``shown``.
        """
        judge, found = self.detector, []
        recorder = Recorder(self.seed, self.sampling, judge.name, judge.version, judge.threshold)
        for base, of in ((False, ""), (True, "_base")):
            for source, prompts in self._sources.items():
                flags = detect(judge, pictures(prompts, base=base))
                found.append(recorder.recorded(rate(f"chance_{source}{of}", flags), prompts, shown=flags))
        return found

    @property
    def _sources(self) -> Mapping[str, PromptSet]:
        return {EMPTY: self.empty, OPEN: self.open}


def empty_prompts(name: str, n: int, *, first_seed: int) -> PromptSet:
    """Return the empty prompt ``n`` times, each time with another seed.

    Args:
        name: Name of the set.
        n: Number of pictures.
        first_seed: Seed of the first picture; the others follow.
    """
    return PromptSet(name, tuple(Case(i, "", first_seed + i) for i in range(n)))
