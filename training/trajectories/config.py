"""Settings for the trajectories of the frozen model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ..diffusion.backbone import Precision
from ..provenance import ADDED, EXTRA


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """Settings for DDIM trajectories of the frozen model.

    Departure from the paper: the timestep t lies on the grid of the DDIM run and matches the noise level of the latent.
    The authors query the UNet 39 to 58 timesteps away from that noise level.

    Args:
        mode: Source of the training points: ``bank`` runs whole trajectories once and stores them, ``fresh`` runs new
            trajectories for every draw, as in the paper.
        steps: Number of DDIM steps (paper: 50).
        guidance: Classifier-free guidance scale of the trajectories (paper: 3).
        seeds: Number of trajectories per prompt. Two numbers apply to the concept's prompts and to the retain prompts;
            a concept given as a single word has only one prompt and needs many more trajectories.
        batch: Number of trajectories run at once.
        limit: Largest number of prompts from each list (concept and retain) that get trajectories; None takes all.
        precision: Precision of the UNet while a bank is built; None takes that of the training. A CPU with instructions
            for bfloat16 builds a bank faster in ``bf16``, and trains faster in ``fp32``, one latent at a time.

    Raises:
        ValueError: A count is below 1, the mode or the precision is unknown, or fresh trajectories have a precision.
    """

    mode: Literal["bank", "fresh"] = "bank"
    steps: int = 50
    guidance: float = 3.0
    seeds: int | tuple[int, int] = 1
    batch: int = field(default=64, metadata=EXTRA)
    limit: int | None = field(default=None, metadata=EXTRA)
    precision: Precision | None = field(default=None, metadata=EXTRA | ADDED)

    def __post_init__(self) -> None:
        if self.mode not in ("bank", "fresh"):
            raise ValueError(f"expected mode 'bank' or 'fresh', found {self.mode!r}")
        if self.precision not in (None, *get_args(Precision)):
            raise ValueError(f"expected a precision among {get_args(Precision)}, found {self.precision!r}")
        if self.precision is not None and self.mode == "fresh":
            raise ValueError(
                f"expected no precision of a bank with mode 'fresh', found {self.precision!r}: remove it, or choose "
                "mode 'bank'"
            )
        if min(self.steps, *self._both_seeds(), self.batch, 1 if self.limit is None else self.limit) < 1:
            raise ValueError(f"expected steps, seeds, batch and limit of at least 1, found {self}")

    def for_concept(self) -> BankConfig:
        """Return the settings with the number of trajectories per prompt of the concept."""
        return replace(self, seeds=self._both_seeds()[0])

    def for_retain(self) -> BankConfig:
        """Return the settings with the number of trajectories per retain prompt."""
        return replace(self, seeds=self._both_seeds()[1])

    def for_run(self, iterations: int, n_concept: int, n_retain: int) -> BankConfig:
        """Return the settings of a run that draws from at most one trajectory per iteration, for each list of prompts.

        Args:
            iterations: Number of iterations of the run.
            n_concept: Number of prompts of the concept.
            n_retain: Number of retain prompts.
        """
        limit = self.limit if self.limit is not None and self.limit <= iterations else iterations
        longest = max(n_concept, n_retain)
        seeds = [
            min(seeds, max(1, iterations // max(1, min(n, limit))))
            for seeds, n in zip(self._both_seeds(), (n_concept, n_retain), strict=True)
        ]
        same = isinstance(self.seeds, int) and seeds[0] == seeds[1]
        return replace(
            self,
            seeds=seeds[0] if same else (seeds[0], seeds[1]),
            limit=self.limit if longest <= limit else limit,
        )

    def _both_seeds(self) -> tuple[int, int]:
        return (self.seeds, self.seeds) if isinstance(self.seeds, int) else self.seeds
