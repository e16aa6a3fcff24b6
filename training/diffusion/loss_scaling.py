"""Loss scaling: gradients through a UNet in float16, which cannot represent values below 6e-8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robust_encoders.errors import TrainingError


def with_scaled_gradients(run: Callable[[Tensor, Tensor], Tensor], latents: Tensor, cond: Tensor) -> Tensor:
    """Return ``run(latents, cond)``; its backward pass scales gradients to a range that float16 can represent.

    The gradient of a mean over thousands of latent values is too small for float16. Micikevicius et al. 2018, section
    3.2, scale the loss for this reason. Here each example's gradient is multiplied by the power of two that brings its
    largest value to between 1 and 2, and divided by the same power where it leaves ``run``. So the scale is no state
    that must be tuned and saved: a resumed run takes the same steps. No example's gradient depends on another example.

    Args:
        run: Function from latents (B, C, h, w) and conditioning (B, L, D) to float32 predictions (B, C, h, w). Its own
            weights must be frozen, because their gradients would stay scaled.
        latents: Latents (B, C, h, w) in float32.
        cond: Conditioning (B, L, D) in float32.

    Raises:
        TrainingError: If a gradient is not finite in spite of the scale; raised in the backward pass.
    """
    scales: list[Tensor] = []

    def grow(gradient: Tensor) -> Tensor:
        largest = gradient.flatten(1).abs().amax(1)  # (B,)
        scales[:] = [torch.where(largest > 0, torch.exp2(-largest.log2().floor()), 1.0)]
        return gradient * _over_rows(scales[0], gradient)

    def shrink(gradient: Tensor) -> Tensor:
        found = gradient / _over_rows(scales[0], gradient)
        if not bool(found.isfinite().all()):
            raise TrainingError(
                "expected finite gradients from the UNet in fp16, found values that are not finite, because its "
                "activations are too large for fp16: run the command again with --train.precision bf16 or fp32, and "
                "with --no-resume"
            )
        return found

    predicted = run(_watched(latents, shrink), _watched(cond, shrink))
    if predicted.requires_grad:
        _watch(predicted, grow)
    return predicted


def _over_rows(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (like.dim() - 1))


def _watched(tensor: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a view of the tensor with ``hook``, so that the hook receives only the gradient of this use."""
    if not tensor.requires_grad:
        return tensor
    alias = tensor.view_as(tensor)
    _watch(alias, hook)
    return alias


def _watch(tensor: Any, hook: Callable[[Tensor], Tensor]) -> None:
    tensor.register_hook(hook)
