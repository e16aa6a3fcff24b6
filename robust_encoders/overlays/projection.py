"""Projections: one D x D matrix on the text encoder's output, equivalent to an edit of the UNet's K and V matrices.

Text reaches the UNet only through the K and V matrices W of its cross-attentions. An edit that multiplies each W from
the right by the same matrix M gives W M. This equals replacing the encoder's output C by C M^T, for the prompt and for
the empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from robust_encoders.errors import IntegrityError
from robust_encoders.utils.home import expanded, write_atomically

PROJECTION_TENSOR = "projection"


def key_value_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the K and V layers of every cross-attention by name, in the UNet's order.

    The search uses the attributes of an attention, not the names of its class or block. Names have changed between
    versions of diffusers, and a search by name would then silently edit nothing.

    Args:
        unet: UNet of diffusers.

    Returns:
        Mapping of names such as ``down_blocks.0....attn2.to_k`` to linear layers of one input width D.

    Raises:
        ValueError: If there are none, if their widths differ, or if one is not a plain linear layer in use: wrapped by
            an adapter, fused with another layer, or quantised.
    """
    layers: dict[str, Any] = {}
    problems: list[str] = []
    for name, module in unet.named_modules():
        if not (getattr(module, "is_cross_attention", False) and hasattr(module, "to_k") and hasattr(module, "to_v")):
            continue
        # After unfusing, diffusers keeps the attribute that marks fused projections, but replaces the processor.
        if "Fused" in type(getattr(module, "processor", None)).__name__:
            problems.append(f"{name}: its K and V are fused; call pipe.unfuse_qkv_projections()")
        layers |= {f"{name}.{part}": getattr(module, part) for part in ("to_k", "to_v")}
    problems += [f"{name}: {what}" for name, layer in layers.items() if (what := _not_plain(layer))]
    if not layers:
        problems.append("found none: it takes no text; use a UNet that is conditioned on text")
    elif not problems and len(widths := {layer.in_features for layer in layers.values()}) > 1:
        problems.append(f"found widths {sorted(widths)} instead of one")
    if problems:
        raise ValueError(f"expected cross-attention layers with plain K and V in the UNet, {'; '.join(problems)}")
    return layers


def _not_plain(layer: Any) -> str:
    if not isinstance(layer, nn.Linear):
        return f"found {type(layer).__name__} instead of a linear layer; unload adapters, or fuse them and unload"
    shape, expected = tuple(layer.weight.shape), (layer.out_features, layer.in_features)
    if shape != expected or not layer.weight.is_floating_point():
        return f"found a weight of {shape}, {layer.weight.dtype} instead of {expected}; load the UNet unquantized"
    return ""


def require_square(matrix: Tensor, width: int) -> None:
    """Check that a projection is a finite D x D matrix.

    Args:
        matrix: Projection M.
        width: Width D of the encoder's output.

    Raises:
        IntegrityError: If it is not; the message names the shape and dtype that were found.
    """
    if tuple(matrix.shape) != (width, width) or not matrix.is_floating_point():
        raise IntegrityError(
            f"expected a projection of shape ({width}, {width}) in a floating dtype, found {tuple(matrix.shape)} in "
            f"{matrix.dtype}; use one that was made for an encoder of this width"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise IntegrityError("expected finite values in the projection, found NaN or infinity; make or fetch it again")


def projected(conditioning: Tensor, matrix: Tensor) -> Tensor:
    """Return the projected conditioning, C M^T.

    Args:
        conditioning: Conditioning C (..., D).
        matrix: Projection M (D, D).

    Returns:
        Conditioning (..., D) in the dtype and on the device of C. Dtypes narrower than float32 are multiplied in
        float32.
    """
    wide = torch.promote_types(conditioning.dtype, torch.float32)
    return (conditioning.to(wide) @ matrix.to(conditioning.device, wide).T).to(conditioning.dtype)


def fused(unet: nn.Module, matrix: Tensor) -> dict[str, Tensor]:
    """Return W M for every cross-attention K and V.

    A UNet with these weights and without the projection draws the same pictures as the given UNet with the projection.

    Args:
        unet: UNet of diffusers; it is not changed.
        matrix: Projection M (D, D).

    Returns:
        Mapping of ``<module>.weight`` to tensors in the dtype and on the device of the UNet's own weights, computed in
        float64.

    Raises:
        ValueError: If the UNet's K and V layers cannot be identified; see :func:`key_value_layers`.
        IntegrityError: If M does not have the UNet's width.
    """
    exact = _multiplied(unet, matrix)
    layers = key_value_layers(unet)
    return {f"{name}.weight": exact[name].to(layer.weight) for name, layer in layers.items()}


def _multiplied(unet: nn.Module, matrix: Tensor) -> Mapping[str, Tensor]:
    layers = key_value_layers(unet)
    require_square(matrix, next(iter(layers.values())).in_features)
    return {name: multiplied(layer.weight, matrix) for name, layer in layers.items()}


def multiplied(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return W M (out, D) in float64 on the CPU, because some accelerators have no float64.

    Args:
        weight: Weight W (out, D) of a key or value layer.
        matrix: Projection M (D, D).
    """
    return weight.detach().to("cpu", torch.float64) @ matrix.detach().to("cpu", torch.float64)


def export_key_values(path: str | Path, unet: nn.Module, matrix: Tensor, *, overwrite: bool = False) -> Path:
    """Write W M for every cross-attention K and V to a file in the format in which the authors of UCE publish edits.

    Load the file with ``unet.load_state_dict({**unet.state_dict(), **load_file(path)})``, which refuses a file for
    another UNet. Do not use a loaded edit together with the projection that it came from.

    Args:
        path: Path of the safetensors file, which holds float32 tensors under ``<module>.weight`` names.
        unet: UNet that the file is for; it is not changed.
        matrix: Projection M (D, D).
        overwrite: Switch that replaces an existing file.

    Returns:
        The path.

    Raises:
        FileExistsError: If the path exists and ``overwrite`` is false.
        ValueError: If the UNet's K and V layers cannot be identified.
        IntegrityError: If M does not have the UNet's width.
    """
    path = expanded(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected nothing at {path}, found a file; choose another name, or set overwrite")
    weights = {f"{name}.weight": weight.float() for name, weight in _multiplied(unet, matrix).items()}
    write_atomically(path, safetensors.torch.save(weights, metadata={"format": "pt"}))
    return path
