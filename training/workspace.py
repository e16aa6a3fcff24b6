"""Checkpoints, caches, progress display and memory use of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robust_encoders.utils.home import expanded_or_none

if TYPE_CHECKING:
    from .trackers import Trackers


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Settings for checkpoints, caches, progress display and memory use; none of them changes the result of a run.

    One exception: ``micro_batch`` changes the order of sums and thus the last bits of a result.

    Args:
        folder: Folder for checkpoints; None writes none.
        cache_dir: Parent folder of the trajectory banks (stored predictions of the frozen base); None keeps the banks
            in memory.
        every: Number of iterations between checkpoints.
        resume: True to continue from the newest checkpoint, if there is one.
        progress: True to show progress bars.
        micro_batch: Largest number of latents in one UNet call with gradients. A small number needs less memory and
            as many UNet calls per latent. None puts all latents of an iteration into one call.
        gradient_checkpointing: True for activation checkpointing: the blocks of UNet and student compute their
            activations a second time in the backward pass instead of storing them. This saves memory and takes longer.
        trackers: Running experiment trackers, which get losses and learning rates; None tracks nothing.

    Raises:
        ValueError: ``every`` or ``micro_batch`` is below 1.
        HomeError: A folder begins with ``~``, and the home directory is not known.
    """

    folder: Path | None = None
    cache_dir: Path | None = None
    every: int = 50
    resume: bool = True
    progress: bool = True
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    trackers: Trackers | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "cache_dir"):
            object.__setattr__(self, name, expanded_or_none(getattr(self, name)))
        if self.every < 1 or (self.micro_batch is not None and self.micro_batch < 1):
            raise ValueError(f"expected every and micro_batch of at least 1, found {self.every} and {self.micro_batch}")
