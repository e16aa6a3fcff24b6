"""The same gradients in less memory: activations computed again, the UNet called on a few latents at a time."""

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
    """Let diffusers and transformers models keep no activations inside their blocks, and compute them again.

    Gradient checkpointing (Chen et al. 2016). Results are the same bits in float32. Both libraries' own switches are
    set for the time of the context; transformers looks at a layer's ``training`` flag as well, so that one is set on
    the layers alone, and dropout, which lies in modules below them, stays off.

    Args:
        parts: Models with blocks that can be computed again.

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
            f"expected blocks that can be computed again, found none in {type(part).__name__}: "
            "train without gradient checkpointing"
        )
    return found


def in_pieces(error: Callable[[slice, Tensor], Tensor], cond: Tensor, size: int) -> Tensor:
    """Return ``error(all rows, cond)`` (B,), with gradients taken piece by piece, so that one piece's graph is kept.

    An example's error depends on its own conditioning alone, so its gradient can be taken at once, whatever weight the
    error gets later. The result is differentiable in ``cond`` once; the sum is the same, its order is another.

    Args:
        error: From a slice of the batch and its conditionings (b, L, D) to errors (b,).
        cond: (B, L, D).
        size: Rows in a piece.
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
    # The second summand is zero; its gradient is the one that was found.
    linear = ((cond - cond.detach()) * torch.cat(gradients)).flatten(1).sum(1)
    return torch.cat(found) + linear
