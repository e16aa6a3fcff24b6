"""Adam with moments in bfloat16, for trainings whose moments in float32 do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STRIDE = 1_000_003  # of seeds from step to step; larger than the number of a model's parameters
_DROPPED_BITS = 16  # bits of float32 that bfloat16 lacks


class BFloat16Adam(torch.optim.AdamW):
    """``torch.optim.AdamW`` that keeps both moments in bfloat16 between steps, in half the memory.

    The step itself is PyTorch's, in float32, for one parameter at a time. The moments are rounded stochastically. The
    nearest bfloat16 would not do: a step changes the second moment by a thousandth, less than half the distance between
    two values of bfloat16, so the moment would stay where it is. Two runs from the same state draw the same rounding.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch annotates it with overloads
        """Change all parameters with a gradient, and return what the closure returns.

        Args:
            closure: Function that computes the gradients again and returns the loss.
        """
        loss = None if closure is None else closure()
        groups = self.param_groups
        try:
            for group in groups:
                for index, parameter in enumerate(group["params"]):
                    self.param_groups = [{**group, "params": [parameter]}]
                    self._step_one(parameter, index)
        finally:
            self.param_groups = groups
        return loss

    def _step_one(self, parameter: nn.Parameter, index: int) -> None:
        if parameter.grad is None:
            return
        state: dict[str, Any] = self.state[parameter]
        state.update({name: state[name].float() for name in _MOMENTS if name in state})
        super().step()
        # A CPU's generator uses the lower 32 bits of a seed only.
        seed = (int(state["step"]) * _STRIDE + index) % 2**32
        generator = Generator(parameter.device).manual_seed(seed)
        state.update({name: stochastically_rounded(state[name], generator) for name in _MOMENTS})


def stochastically_rounded(values: Tensor, generator: Generator) -> Tensor:
    """Return finite float32 values in bfloat16: each rounded up or down, so that the expected value is the value.

    Args:
        values: Values of any shape in float32.
        generator: Generator of the roundings, on the device of the values.
    """
    noise = torch.randint(
        1 << _DROPPED_BITS, values.shape, dtype=torch.int32, device=values.device, generator=generator
    )
    bits = (values.view(torch.int32) + noise) & (-1 << _DROPPED_BITS)
    return bits.view(torch.float32).to(torch.bfloat16)
