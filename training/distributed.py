"""One run on several processes of ``accelerate launch`` or ``torchrun``: division of the work and synchronisation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from robust_encoders.utils.extras import install_command

_PATIENCE = timedelta(days=14)  # one process may run an attack for hours while another waits for it without work


@dataclass(frozen=True)
class Shard:
    """The share of the work that one process takes.

    Args:
        index: Number of this process, counted from 0.
        count: Number of processes.
        wait: Function that returns once every process has called it.
        device: Device for the models of this process, for example ``cuda:1``.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """True if this process puts the parts together and writes the results."""
        return self.index == 0

    def takes(self, place: int) -> bool:
        """Return True if this process computes the part number ``place``, counted from 0."""
        return place % self.count == self.index

    def part(self, total: int) -> slice:
        """Return the slice of ``total`` rows that this process takes; the slices of all processes follow in order."""
        return slice(self.index * total // self.count, (self.index + 1) * total // self.count)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all processes; every process must call this."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Tensor = reduce(tensor, "sum")
        return summed

    def spread(self, tensor: Tensor) -> Tensor:
        """Return a tensor whose gradient is summed over all processes; ``tensor`` must be equal in all of them."""
        spread: Tensor = _Spread.apply(tensor, self)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return spread

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the processes; every process must call this."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather_object

        return torch.cat([part.to(rows.device) for part in gather_object([rows.cpu()])])

    @classmethod
    def current(cls) -> Shard:
        """Return this process's share under ``accelerate launch`` or ``torchrun``, or everything without them."""
        gpu = torch.cuda.is_available()
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(device="cuda" if gpu else "cpu")
        try:
            from accelerate import PartialState
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "expected the package accelerate, which several processes need to share a run, found none; "
                f"{install_command('train')}"
            ) from error
        state = PartialState(cpu=not gpu, timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.shard.total(gradients[0].contiguous()), None
