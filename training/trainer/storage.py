"""Sizes of what a training writes to disk: trajectories, checkpoints, and the artifact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..trajectories.config import BankConfig
from .parameters import SelectionConfig
from .unet_parameters import UNetSelectionConfig

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

    from .loop import TrainingConfig  # it imports accelerate, which an evaluation does not need

_HALF, _FLOAT = 2, 4  # bytes of a value
_MOMENTS = 2  # of Adam


@dataclass(frozen=True)
class StoredTrajectories:
    """Trajectories of one list of prompts in a bank.

    Args:
        settings: Settings with one number of seeds, see ``BankConfig.for_concept``.
        prompts: Number of prompts.
        tensors: Number of stored values for each value of a latent: 3 for the latent and two predictions, 4 with the
            prediction for the anchor.
    """

    settings: BankConfig
    prompts: int
    tensors: int = 3

    def size(self, latent_shape: tuple[int, ...]) -> int:
        """Return the bytes of the trajectories on disk.

        Args:
            latent_shape: Shape (C, h, w) of a latent.
        """
        settings, seeds = self.settings, self.settings.seeds
        if settings.mode != "bank":
            return 0
        rows = min(self.prompts, settings.limit or self.prompts) * (seeds if isinstance(seeds, int) else max(seeds))
        return rows * settings.steps * math.prod(latent_shape) * self.tensors * _HALF


@dataclass(frozen=True)
class Stored:
    """Everything that a method writes to disk while it runs.

    Args:
        trajectories: Lists of trajectories in the bank.
        select: Selection of the trained parameters; None for few parameters, whose checkpoints are small.
        train: Settings of the gradient loop; None for a method without one.
        component: Component that is trained.
    """

    trajectories: tuple[StoredTrajectories, ...] = ()
    select: SelectionConfig | UNetSelectionConfig | None = None
    train: TrainingConfig | None = None
    component: str = "text_encoder"

    def bank(self, latent_shape: tuple[int, ...]) -> int:
        """Return the bytes of all trajectories; the shape of a latent is (C, h, w)."""
        return sum(part.size(latent_shape) for part in self.trajectories)

    def checkpoints(self, pipe: Any, every: int) -> int:
        """Return the bytes of the checkpoints that exist at the same time.

        Args:
            pipe: Pipeline, of which the parameters are selected.
            every: Number of iterations between checkpoints.
        """
        train = self.train
        if train is None or self.select is None:
            return 0
        moment = _HALF if train.moments == "bf16" else _FLOAT
        each = _FLOAT * (2 if train.average else 1) + _MOMENTS * moment
        # A new checkpoint is written before the older one is deleted.
        return self._values(pipe) * each * min(train.iterations // every, 2)

    def artifact(self, pipe: Any) -> int:
        """Return the bytes of the artifact, without its small files."""
        if isinstance(self.select, SelectionConfig):
            values: int = sum(one.numel() for one in getattr(pipe, self.component).parameters())
            return values * _FLOAT
        size: int = next(iter(pipe.unet.parameters())).element_size()
        return self._values(pipe) * size

    def _values(self, pipe: Any) -> int:
        select = self.select
        if isinstance(select, UNetSelectionConfig):
            return sum(one.numel() for one in select.select(pipe.unet).values())
        if select is None:
            return 0
        return sum(one.numel() for one in select.select(getattr(pipe, self.component)).values())


@runtime_checkable
class StoringMethod(Protocol):
    """A method that knows what it writes to disk, so that a full disk is told before the run."""

    name: ClassVar[str]

    def stored(self, concept: Concept) -> Stored:
        """Return the trajectories and checkpoints of a run for ``concept``."""
        ...


def present(folder: Path, pattern: str = "**/*.safetensors") -> int:
    """Return the bytes of the files that lie in a folder already, which need no further space.

    Args:
        folder: Folder; it need not exist.
        pattern: Pattern of the files.
    """
    return sum(_sizes(folder.glob(pattern)))


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        try:
            yield path.stat().st_size
        except OSError:  # another process may delete it at the same time
            continue
