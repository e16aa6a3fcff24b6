"""Gradients through a UNet in float16, which holds nothing below 6e-8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_scaled_gradients(run: Callable[[Tensor, Tensor], Tensor], latents: Tensor, cond: Tensor) -> Tensor:
    """Return ``run(latents, cond)``, whose backward pass goes through ``run`` at a scale that float16 can hold.

    The gradient of a mean over thousands of latent values is too small for float16 (Micikevicius et al. 2018, section
    3.2, scale the loss for that). Each example's gradient is multiplied by the power of two that brings its largest
    value to between 1 and 2, and divided by it again where it leaves ``run``. So the scale is no state to be tuned and
    kept: a resumed run takes the same steps, and no example's gradient depends on another's.

    Args:
        run: From latents (B, C, h, w) and conditioning (B, L, D) to float32 predictions (B, C, h, w); its own weights
            are frozen, their gradients would stay scaled.
        latents: (B, C, h, w) in float32.
        cond: (B, L, D) in float32.

    Raises:
        RuntimeError: In the backward pass, where a gradient is not finite all the same.
    """
    scales: list[Tensor] = []

    def grow(gradient: Tensor) -> Tensor:
        largest = gradient.flatten(1).abs().amax(1)  # (B,)
        scales[:] = [torch.where(largest > 0, torch.exp2(-largest.log2().floor()), 1.0)]
        return gradient * _over_rows(scales[0], gradient)

    def shrink(gradient: Tensor) -> Tensor:
        found = gradient / _over_rows(scales[0], gradient)
        if not bool(found.isfinite().all()):
            raise RuntimeError(
                "expected finite gradients from the UNet in fp16, found infinite ones: train with precision bf16 or "
                "fp32, this UNet's activations are too large for fp16"
            )
        return found

    predicted = run(_watched(latents, shrink), _watched(cond, shrink))
    if predicted.requires_grad:
        _watch(predicted, grow)
    return predicted


def _over_rows(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (like.dim() - 1))


def _watched(tensor: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the tensor under a name of its own, so that the hook sees this use's gradient alone."""
    if not tensor.requires_grad:
        return tensor
    alias = tensor.view_as(tensor)
    _watch(alias, hook)
    return alias


def _watch(tensor: Any, hook: Callable[[Tensor], Tensor]) -> None:
    tensor.register_hook(hook)
