"""Results on the pictures of a prompt set by the encoder and by the base: rates and their paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...diffusion.sampling import SamplingConfig
from ...metrics.paired_tests import paired_difference
from ...metrics.rates import rate
from ...provenance import judging_versions
from ...types import Result
from ..plan import PromptSet

Pairs = Sequence[tuple[bool, bool]]


@dataclass(frozen=True)
class Recorder:
    """The settings that all results of a probe share.

    Args:
        seed: Seed of the run.
        sampling: Sampling of the evaluation.
        judge: Name of the judge or detector.
        version: Version of the judge or detector.
        threshold: Threshold of a detector; None for a judge that names values.
    """

    seed: int
    sampling: SamplingConfig
    judge: str
    version: str
    threshold: float | None = None

    def recorded(self, result: Result, prompts: PromptSet, *, calls: bool = True, **settings: Any) -> Result:
        """Return a result with everything that is needed to measure it again.

        Args:
            result: Number, with its own settings.
            prompts: Prompts of the pictures.
            calls: True if the number counts the UNet calls of the pictures; False if another number counts them.
            settings: Further settings.
        """
        used = prompts.sampling or self.sampling
        scheduler = {"scheduler": prompts.scheduler} if prompts.scheduler else {}
        return replace(
            result,
            detector=self.judge,
            detector_version=self.version,
            threshold=self.threshold,
            seeds=(self.seed,),
            prompt_set=prompts.name,
            prompt_sha256=prompts.sha256,
            settings={**result.settings, "sampling": asdict(used), **scheduler, **settings},
            versions=judging_versions(),
            unet_calls=len(prompts.cases) * used.calls_per_picture if calls else 0,
        )

    def compared(self, name: str, pairs: Pairs, prompts: PromptSet) -> list[Result]:
        """Return the encoder's rate, the base's rate, and the paired difference.

        Args:
            name: Name of the encoder's rate; the others add ``_base`` and ``_difference``.
            pairs: Flag of the encoder's picture and flag of the base's, one pair for each prompt.
            prompts: Prompts of the pictures.

        Raises:
            ValueError: If there are no pairs.
        """
        own, base = [one for one, _ in pairs], [other for _, other in pairs]
        made = (rate(name, own), rate(f"{name}_base", base), paired_difference(f"{name}_difference", own, base))
        return [self.recorded(result, prompts, calls=i < 2) for i, result in enumerate(made)]

    def cell(self, name: str, pairs: Pairs, prompts: PromptSet) -> Result:
        """Return the encoder's rate on some of the prompts, with the base's rate and the difference in its settings.

        Args:
            name: Name of the rate.
            pairs: Flag of the encoder's picture and flag of the base's, one pair for each of these prompts.
            prompts: Prompts of the whole set.

        Raises:
            ValueError: If there are no pairs.
        """
        own, base = [one for one, _ in pairs], [other for _, other in pairs]
        paired = paired_difference(name, own, base).settings["paired"]
        return self.recorded(rate(name, own), prompts, calls=False, base=sum(base) / len(base), paired=paired)
