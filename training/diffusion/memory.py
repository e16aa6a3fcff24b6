"""The same gradients with less memory: activation checkpointing, and UNet calls on a few latents at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_FUNCTION = "_gradient_checkpointing_func"


@contextmanager
def activation_checkpointing(*parts: nn.Module) -> Iterator[None]:
    """Make diffusers and transformers models recompute the activations inside their blocks instead of storing them.

    This is activation checkpointing, also called gradient checkpointing (Chen et al. 2016). In float32, results are
    identical to the last bit. The context sets the switches of both libraries. transformers also tests the ``training``
    flag of a layer, so this flag is set on the layers alone. Dropout is in modules below the layers and stays off.

    Args:
        parts: Models with blocks that support activation checkpointing.

    Raises:
        ValueError: A model has no such block.
    """
    blocks = [_blocks(part) for part in parts]
    before = [(m, m.gradient_checkpointing, m.training, m.__dict__.get(_FUNCTION)) for found in blocks for m in found]
    try:
        for module, *_ in before:
            module.gradient_checkpointing = module.training = True
            setattr(module, _FUNCTION, partial(checkpoint, use_reentrant=False))
        yield
    finally:
        for module, switch, mode, function in before:
            module.gradient_checkpointing, module.training = switch, mode
            module.__dict__.pop(_FUNCTION, None)
            if function is not None:
                setattr(module, _FUNCTION, function)


def _blocks(part: nn.Module) -> list[Any]:
    found = [module for module in part.modules() if hasattr(module, "gradient_checkpointing")]
    if not found:
        raise ValueError(
            f"expected blocks that support gradient checkpointing, found none in {type(part).__name__}: "
            "train without gradient checkpointing"
        )
    return found


def in_pieces(error: Callable[[slice, Tensor], Tensor], cond: Tensor, size: int) -> Tensor:
    """Return ``error(all rows, cond)`` (B,), with gradients computed piece by piece to save memory.

    Only the graph of one piece is in memory at a time. An example's error depends only on its own conditioning. So its
    gradient can be computed at once and multiplied later by the weight of the error. The result can be differentiated
    in ``cond`` once. It equals the undivided computation up to the order of sums.

    Args:
        error: Function from a slice of the batch and its conditionings (b, L, D) to errors (b,).
        cond: Conditionings (B, L, D).
        size: Number of rows in a piece.
    """
    pieces = [slice(start, start + size) for start in range(0, len(cond), size)]
    if not cond.requires_grad:
        return torch.cat([error(rows, cond[rows]) for rows in pieces])
    found: list[Tensor] = []
    gradients: list[Tensor] = []
    for rows in pieces:
        leaf = cond[rows].detach().requires_grad_()
        errors = error(rows, leaf)
        gradients.extend(torch.autograd.grad(errors.sum(), leaf))
        found.append(errors.detach())
    # The second summand is zero; its gradient is the gradient computed above.
    linear = ((cond - cond.detach()) * torch.cat(gradients)).flatten(1).sum(1)
    return torch.cat(found) + linear
