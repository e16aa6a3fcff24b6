"""Where a run keeps what it may go on from, and how it uses the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a run keeps what it may go on from, and how it uses the machine; nothing here changes its result.

    (``micro_batch`` changes the order of sums, so the last bits.)

    Args:
        folder: For checkpoints; None keeps none.
        cache_dir: Parent of the trajectory banks; None keeps them in memory.
        every: Iterations between checkpoints.
        resume: Go on from the newest checkpoint, if there is one.
        progress: Show progress bars.
        micro_batch: Most latents that go through the UNet at once while gradients are taken; None takes an iteration's
            all at once. Less memory for as many UNet calls.
        gradient_checkpointing: Compute activations inside the blocks of UNet and student twice instead of keeping them.
        tensorboard: Folder for TensorBoard's files of losses and rates; None writes none.

    Raises:
        ValueError: ``every`` or ``micro_batch`` below 1.
    """

    folder: Path | None = None
    cache_dir: Path | None = None
    every: int = 50
    resume: bool = True
    progress: bool = True
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or (self.micro_batch is not None and self.micro_batch < 1):
            raise ValueError(f"expected every and micro_batch of at least 1, found {self.every} and {self.micro_batch}")
