"""The pool of pictures that no attack made, from which the floor of attacks is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
        empty: The empty prompt, once for each seed.
        open: Captions that leave the concept open, equally many for each seed; those of a seed follow each other.
        detector: Detector of the concept.
        sampling: Sampling of the evaluation.
        seed: Seed of the run.

    Raises:
        ValueError: If there are not equally many captions for each seed.
    """

    name: ClassVar[str] = "chance"

    empty: PromptSet
    open: PromptSet
    detector: Detector
    sampling: SamplingConfig
    seed: int

    def __post_init__(self) -> None:
        if [c.seed for c in self.empty.cases for _ in range(self.captions_per_seed)] != [
            c.seed for c in self.open.cases
        ]:
            raise ValueError(
                f"expected equally many open captions for each seed of the empty prompt, found {len(self.open.cases)} "
                f"captions for {len(self.empty.cases)} seeds: make both sets with at_seeds()"
            )

    @property
    def captions_per_seed(self) -> int:
        """Number of open captions of each seed."""
        return len(self.open.cases) // len(self.empty.cases)

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
            show the concept. Their settings hold one flag for each picture as ``shown``, in the order of the prompts.
        """
        judge, found = self.detector, []
        recorder = Recorder(self.seed, self.sampling, judge.name, judge.version, judge.threshold)
        for base, of in ((False, ""), (True, "_base")):
            for source, prompts in self._sources.items():
                flags = detect(judge, pictures(prompts, base=base))
                made = recorder.recorded(rate(f"chance_{source}{of}", flags), prompts, shown=flags)
                found.append(replace(made, settings={**made.settings, "captions_per_seed": self.captions_per_seed}))
        return found

    @property
    def _sources(self) -> Mapping[str, PromptSet]:
        return {EMPTY: self.empty, OPEN: self.open}


def at_seeds(name: str, seeds: Sequence[int], captions: Sequence[str]) -> tuple[PromptSet, PromptSet]:
    """Return the empty prompt and open captions at given seeds, the prompts of a ``ChancePool``.

    Args:
        name: Name of the pool; the sets add ``/empty`` and ``/open``.
        seeds: Seeds, for example those of the first attacked prompts.
        captions: Captions that leave the concept open, equally many for each seed.
    """
    each = len(captions) // len(seeds)
    empty = (Case(i, "", seed) for i, seed in enumerate(seeds))
    opened = (Case(i, text, seeds[i // each]) for i, text in enumerate(captions[: each * len(seeds)]))
    return PromptSet(f"{name}/empty", tuple(empty)), PromptSet(f"{name}/open", tuple(opened))
