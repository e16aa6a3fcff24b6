"""How an evaluation is carried out, whichever benchmark it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..diffusion.sampling import SamplingConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """How an evaluation is carried out; what it asks is the benchmark's affair.

    Args:
        sampling: How pictures are drawn.
        seed: Seed of prompts, pictures and attacks.
        chunk: Cases of one finished part; also the part that several processes share the work by.
        checks: Cases on which every search is run again with half its budget and with another seed; 0 for none.
        attacks: Attacks instead of the benchmark's: labels of its suite, or names in ``ATTACKS``. The command line
            takes commas, too.
        metrics: Metrics instead of the benchmark's: its own by their names, or names in ``METRICS``, which look at the
            kept pictures.
        source: Folder of the parts that depend on the base alone, to be shared between evaluations of several
            encoders; by default the evaluation's own.
        strength: Folder of a finished evaluation of the base on captions that leave the concept open. It says how
            strong the attacks are.

    Raises:
        ValueError: If a size leaves nothing to compare, or the seed is negative.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    chunk: int = 50
    checks: int = 16
    attacks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    source: Path | None = None
    strength: Path | None = None

    def __post_init__(self) -> None:
        if self.chunk < 2 or self.checks < 0 or self.checks == 1 or self.seed < 0:
            raise ValueError(
                f"expected chunk of at least 2, checks of 0 or of at least 2, and seed of at least 0, found {self}"
            )
