"""Settings of the frozen model's trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..provenance import EXTRA


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """How trajectories of the frozen model are run.

    Departure from the paper: t lies on the grid of the DDIM run, where the latents belong; the authors query the UNet
    39 to 58 timesteps away from the noise level of the latent.

    Args:
        mode: ``bank`` runs whole trajectories once; ``fresh`` runs fresh ones for every draw, as the paper does.
        steps: DDIM steps (paper: 50).
        guidance: Classifier-free guidance of the trajectories (paper: 3).
        seeds: Trajectories for each prompt; two numbers are those of the concept's prompts and of the retain set's,
            for a concept that is one bare word needs many more.
        batch: Trajectories run at once.
        limit: Largest number of prompts of each list with trajectories; None takes all.

    Raises:
        ValueError: A count below 1, or an unknown mode.
    """

    mode: Literal["bank", "fresh"] = "bank"
    steps: int = 50
    guidance: float = 3.0
    seeds: int | tuple[int, int] = 1
    batch: int = field(default=64, metadata=EXTRA)
    limit: int | None = field(default=None, metadata=EXTRA)

    def __post_init__(self) -> None:
        if self.mode not in ("bank", "fresh"):
            raise ValueError(f"expected mode 'bank' or 'fresh', found {self.mode!r}")
        if min(self.steps, *self._both_seeds(), self.batch, 1 if self.limit is None else self.limit) < 1:
            raise ValueError(f"expected steps, seeds, batch and limit of at least 1, found {self}")

    def for_concept(self) -> BankConfig:
        """Return the settings with the number of trajectories for each prompt with the concept."""
        return replace(self, seeds=self._both_seeds()[0])

    def for_retain(self) -> BankConfig:
        """Return the settings with the number of trajectories for each prompt of the retain set."""
        return replace(self, seeds=self._both_seeds()[1])

    def _both_seeds(self) -> tuple[int, int]:
        return (self.seeds, self.seeds) if isinstance(self.seeds, int) else self.seeds
