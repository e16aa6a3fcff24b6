"""Gradient surgery: the gradient that erases a concept, without its part against the gradient that preserves the rest.

It is the concept-preserving gradient of DoCo (Wu et al., AAAI 2025, arXiv 2405.15304), usable with every method of two
losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Generator, Tensor, nn

from ..distributed import Shard
from .checkpoint import StepLoss


class LossPair(NamedTuple):
    """The two losses of one iteration, and the rule that combines their gradients.

    With several processes, the losses and parts are shares, as those of a ``StepLoss`` are.

    Args:
        erase: Loss () that erases the concept. Without a gradient, the iteration changes no parameter.
        preserve: Loss () that preserves the rest. Without a gradient, the erasing gradient stays as it is.
        parts: Parts of both losses by name, for the log.
        strength: Share of the opposing part that is removed from the erasing gradient, lambda of the paper; 1 removes
            all of it.
        share: Factor with which the preserving gradient is applied in addition; 0 makes it a constraint only.
    """

    erase: Tensor
    preserve: Tensor
    parts: dict[str, float]
    strength: float = 1.0
    share: float = 1.0


@runtime_checkable
class TwoLosses(Protocol):
    """A ``StepLoss`` that can return its erasing and its preserving loss one by one."""

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        """Return both losses of one iteration, from the same random draws as a call."""
        ...


def without_conflict(erase: Sequence[Tensor], preserve: Sequence[Tensor], strength: float = 1.0) -> list[Tensor]:
    """Return the erasing gradient without its component against the preserving gradient.

    If the inner product <g_E, g_P> is negative, the result is ``g_E - strength <g_E, g_P> / |g_P|^2 g_P``. Otherwise it
    is g_E itself. All tensors of a gradient together are one vector, and nothing is normalised. With strength 1 the
    result is orthogonal to g_P up to rounding. The authors' code differs: it normalises both gradients tensor by tensor
    and subtracts from the un-normalised one, which removes too much if gradients are shorter than 1.

    Args:
        erase: Tensors of the erasing gradient g_E.
        preserve: Tensors of the preserving gradient g_P, with the same shapes in the same order.
        strength: Share of the opposing component that is removed (the paper's lambda).
    """
    inner = _inner(erase, preserve)
    if inner >= 0:
        return list(erase)
    factor = strength * inner / _inner(preserve, preserve)
    return [(g.double() - factor * p.double()).to(g.dtype) for g, p in zip(erase, preserve, strict=True)]


def _inner(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    return sum(float((one.double() * other.double()).sum()) for one, other in zip(a, b, strict=True))


def require_two_losses(loss: StepLoss) -> TwoLosses:
    """Return the loss if gradient surgery can use it.

    Raises:
        ValueError: If the method has one loss only.
    """
    if not isinstance(loss, TwoLosses):
        raise ValueError(
            "expected a method of two losses for gradient surgery, one that erases and one that preserves, found one "
            f"loss ({type(loss).__name__}): leave train.gradient_surgery off, or choose another method"
        )
    return loss


def set_gradients(
    parameters: Mapping[str, nn.Parameter], pair: LossPair, accelerator: Accelerator, shard: Shard
) -> None:
    """Set the parameters' gradients to those after surgery, or leave them at None if the erasing loss has no gradient.

    The gradients of both losses are summed over all processes before the surgery, so every process sets the same. The
    second loss may share the graph of the first; its backward pass is one more pass through that graph.

    Args:
        parameters: Trained parameters without gradients, by name.
        pair: Losses of this process.
        accelerator: Accelerator of the training loop.
        shard: Share of this process.
    """
    if not pair.erase.requires_grad:
        return
    held = [*parameters.values()]
    accelerator.backward(pair.erase, retain_graph=True)
    erase = _taken(held, shard)
    if pair.preserve.requires_grad:
        accelerator.backward(pair.preserve)
    preserve = _taken(held, shard)
    for parameter, g, p in zip(held, without_conflict(erase, preserve, pair.strength), preserve, strict=True):
        parameter.grad = g + pair.share * p if pair.share else g


@torch.no_grad()
def _taken(parameters: Sequence[nn.Parameter], shard: Shard) -> list[Tensor]:
    """Return the gradients of all processes together, zero where there are none, and clear this process's."""
    found = []
    for parameter in parameters:
        found.append(shard.total(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad))
        parameter.grad = None
    return found
