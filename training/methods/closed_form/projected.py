"""The projection that is closest to a given edit of K and V."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_encoders.overlays.projection import key_value_layers, require_square

from .moments import pseudo_inverse

# Largest accepted distance between a projection and the edit that it replaces, relative to the edit's size. Above it,
# no matrix on the encoder's output stands for the edit.
RESIDUAL_BOUND = 0.05


@dataclass(frozen=True)
class Projected:
    """An edit of K and V matrices, as one matrix on the encoder's output.

    Args:
        matrix: Matrix M (D, D), float64.
        residual: Part of the edit that M loses, ``||W' - W M|| / ||W' - W||`` over all layers: 0 is none of it, 1 is
            all of it. Lower is better.
        seen: Number of text directions that reach K and V; in the other directions M changes nothing.
    """

    matrix: Tensor
    residual: float
    seen: int


def project_edit(unet: nn.Module, edited: Mapping[str, Tensor], *, bound: float = RESIDUAL_BOUND) -> Projected:
    """Return the projection closest to a given edit of a UNet's K and V matrices.

    ``M = G^-1 sum_l W_l^T W'_l`` minimises ``sum_l ||W'_l - W_l M||^2``. If G is singular, M is the identity in the
    directions that reach neither K nor V.

    Args:
        unet: UNet before the edit; it stays unchanged.
        edited: Edited tensors by name, ``<module>.weight``. Missing K and V matrices count as unedited. Every other
            tensor, as a whole state dict has it, must equal the UNet's own.
        bound: Largest accepted residual, see :class:`Projected`.

    Raises:
        ValueError: If an edited tensor is neither K nor V of this UNet, or if the residual is above ``bound``. The
            message names the tensors or the residual.
    """
    layers = key_value_layers(unet)
    _require_key_values(unet, layers, edited)
    width = next(iter(layers.values())).in_features
    gram, right = torch.zeros(2, width, width, dtype=torch.float64).unbind()
    size = 0.0
    for name, layer in layers.items():
        weight = layer.weight.detach().to("cpu", torch.float64)
        gram += weight.T @ weight
        if f"{name}.weight" in edited:
            change = edited[f"{name}.weight"].detach().to("cpu", torch.float64) - weight
            right += weight.T @ change
            size += float(change.square().sum())
    inverse, seen = pseudo_inverse(gram)
    moved = inverse @ right
    # ||W' - W M||^2 = ||W' - W||^2 - 2 <W' - W, W (M - I)> + ||W (M - I)||^2, summed over layers.
    left = size - 2 * float((right * moved).sum()) + float((moved * (gram @ moved)).sum())
    residual = (max(left, 0.0) / size) ** 0.5 if size else 0.0
    if not residual <= bound:
        raise ValueError(
            f"expected an edit that one matrix on the encoder's output reproduces up to a residual of {bound:.3g}, "
            f"found a residual of {residual:.3g}: keep it as an edit of the UNet, or accept a larger bound"
        )
    matrix = torch.eye(width, dtype=torch.float64) + moved
    require_square(matrix, width)
    return Projected(matrix, residual, seen)


def _require_key_values(unet: nn.Module, layers: Mapping[str, nn.Linear], edited: Mapping[str, Tensor]) -> None:
    own = unet.state_dict()
    ours = {f"{name}.weight" for name in layers}
    problems = []
    for name, tensor in edited.items():
        if name not in own:
            problems.append(f"{name} is not in this UNet")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(own[name].shape)}")
        elif name not in ours and not torch.equal(tensor.to(own[name]), own[name]):
            problems.append(f"{name} is an edited tensor, but neither K nor V of a cross-attention")
    if not ours & edited.keys():
        problems.append("no K or V matrix of this UNet")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ValueError(f"expected an edit of only the cross-attention K and V of this UNet, found: {shown}")
