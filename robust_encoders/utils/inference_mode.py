"""Work outside of torch's inference mode, whose tensors cannot be trained or changed in place afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Make normal tensors for the length of a ``with`` block, also inside ``torch.inference_mode``."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    # Leaving inference mode switches gradients on.
    with torch.inference_mode(False), torch.no_grad():
        yield


def makes_normal_tensors(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs outside of inference mode, wherever it is called.

    Args:
        function: Function that makes or changes tensors which outlive the call.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with normal_tensors():
            return function(*args, **kwargs)

    return run


def as_normal(tensor: Tensor) -> Tensor:
    """Return a tensor itself, or a copy of one that was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with normal_tensors():
        return tensor.clone()
