"""The settings of an evaluation's run, which are the same for every benchmark."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from robust_encoders.utils.home import expanded, expanded_or_none

from ..diffusion.sampling import SamplingConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation's run; the benchmark sets prompts, detector, attacks and metrics.

    A folder may be a string and begin with ``~``: an evaluation reads it as a path.

    Args:
        sampling: Sampling settings of all pictures.
        seed: Seed of prompts, pictures and attacks.
        chunk: Number of cases in one finished part; several processes share the work by parts.
        checks: Number of cases on which every search runs again, with half its budget and with another seed. 0 switches
            the checks off.
        attacks: Attacks instead of the benchmark's: labels of its suite, or names in ``ATTACKS``. The command line also
            takes names joined by commas.
        metrics: Metrics instead of the benchmark's: names of its own metrics, or names in ``METRICS``. The latter are
            measured on the kept pictures.
        source: Folder of the parts that depend on the base alone, which evaluations of several encoders can share. By
            default the evaluation's own folder.
        reuse: Folders of earlier evaluations. Their parts are copied if they were made from the same suite version,
            weights, prompts, seed and settings. By default nothing is copied.
        strength: Folder of a finished evaluation of the base on captions that leave the concept open. Its numbers show
            how strong the attacks are.

    Raises:
        ValueError: If chunk is below 2, checks is 1 or negative, or the seed is negative.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    chunk: int = 50
    checks: int = 16
    attacks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    source: Path | None = None
    reuse: tuple[Path, ...] = ()
    strength: Path | None = None

    def __post_init__(self) -> None:
        if self.chunk < 2 or self.checks < 0 or self.checks == 1 or self.seed < 0:
            raise ValueError(
                f"expected chunk of at least 2, checks of 0 or of at least 2, and seed of at least 0, found {self}"
            )

    def with_paths(self) -> EvaluationConfig:
        """Return the same settings with all folders as paths in which ``~`` is expanded.

        Raises:
            HomeError: If a folder begins with ``~``, and the home directory is not known.
        """
        return replace(
            self,
            source=expanded_or_none(self.source),
            reuse=tuple(expanded(folder) for folder in self.reuse),
            strength=expanded_or_none(self.strength),
        )


def chooses(names: Collection[str], name: str) -> bool:
    """Return True if a list of attacks or metrics names one, or is empty, which names all.

    Args:
        names: List of names of a configuration.
        name: Name to look for.
    """
    return not names or name in names
