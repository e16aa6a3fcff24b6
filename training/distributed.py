"""One run on several processes of ``accelerate launch`` or ``torchrun``: who takes which part, who waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

_PATIENCE = timedelta(days=14)  # one process may attack for hours while another has nothing left to do


@dataclass(frozen=True)
class Shard:
    """The share of one process.

    Args:
        index: Which process this is, from 0.
        count: How many there are.
        wait: Returns once every process has called it.
        device: Where its models belong.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """Whether this process puts the parts together and writes the results."""
        return self.index == 0

    def takes(self, place: int) -> bool:
        """Whether this process makes the part at ``place``."""
        return place % self.count == self.index

    def part(self, total: int) -> slice:
        """Return which of ``total`` rows this process takes; the parts of all processes follow upon each other."""
        return slice(self.index * total // self.count, (self.index + 1) * total // self.count)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all processes; every one of them has to call this."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Tensor = reduce(tensor, "sum")
        return summed

    def spread(self, tensor: Tensor) -> Tensor:
        """Return a tensor that all processes have, whose gradient is the sum of what each of them has."""
        spread: Tensor = _Spread.apply(tensor, self)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return spread

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in their order; every one of them has to call this."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather_object

        return torch.cat([part.to(rows.device) for part in gather_object([rows.cpu()])])

    @classmethod
    def current(cls) -> Shard:
        """Return this process's share under ``accelerate launch`` or ``torchrun``, everything elsewhere."""
        gpu = torch.cuda.is_available()
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(device="cuda" if gpu else "cpu")
        try:
            from accelerate import PartialState
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "expected accelerate, to share the work of several processes, found none; "
                "pip install 'robust-encoders[train]'"
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
