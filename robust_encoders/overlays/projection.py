"""One D x D matrix on the text encoder's output, and the K and V matrices of the UNet that it stands for.

Text reaches the UNet through the K and V of its cross-attentions alone. An edit that multiplies every one of them by
the same matrix from the right, W M, is therefore the same as C M^T at the encoder's output, for the prompt and for the
empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from robust_encoders.errors import IntegrityError
from robust_encoders.utils.home import write_atomically

PROJECTION_TENSOR = "projection"


def key_value_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the K and V matrices of every cross-attention by their names, in the UNet's order.

    They are found by what an attention is, not by what its class or the block around it is called: blocks have been
    renamed between versions, and code that looks for their names then edits nothing, silently.

    Args:
        unet: Any UNet of diffusers.

    Returns:
        ``down_blocks.0....attn2.to_k`` and the like to linear layers of one width D.

    Raises:
        ValueError: If there are none, their widths differ, or one is not a plain linear layer that is in use: wrapped
            by an adapter, fused with another, or quantized.
    """
    layers: dict[str, Any] = {}
    problems: list[str] = []
    for name, module in unet.named_modules():
        if not (getattr(module, "is_cross_attention", False) and hasattr(module, "to_k") and hasattr(module, "to_v")):
            continue
        # diffusers leaves the mark of fused projections behind when they are undone, but not their processor.
        if "Fused" in type(getattr(module, "processor", None)).__name__:
            problems.append(f"{name}: its K and V are fused; call pipe.unfuse_qkv_projections()")
        layers |= {f"{name}.{part}": getattr(module, part) for part in ("to_k", "to_v")}
    problems += [f"{name}: {what}" for name, layer in layers.items() if (what := _not_plain(layer))]
    if not layers:
        problems.append("found none: it takes no text")
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
    """Refuse what is not a finite D x D matrix.

    Args:
        matrix: The projection M.
        width: D, of the encoder's output.

    Raises:
        IntegrityError: Saying what it is instead.
    """
    if tuple(matrix.shape) != (width, width) or not matrix.is_floating_point():
        raise IntegrityError(
            f"expected a projection of shape ({width}, {width}) in a floating dtype, found {tuple(matrix.shape)} in "
            f"{matrix.dtype}; use one that was made for an encoder of this width"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise IntegrityError("expected finite values in the projection, found NaN or infinity; make or fetch it again")


def projected(conditioning: Tensor, matrix: Tensor) -> Tensor:
    """Return C M^T.

    Args:
        conditioning: C (..., D).
        matrix: M (D, D).

    Returns:
        (..., D) in the dtype and on the device of C. What is narrower than float32 is multiplied in float32.
    """
    wide = torch.promote_types(conditioning.dtype, torch.float32)
    return (conditioning.to(wide) @ matrix.to(conditioning.device, wide).T).to(conditioning.dtype)


def fused(unet: nn.Module, matrix: Tensor) -> dict[str, Tensor]:
    """Return W M for every cross-attention K and V: the UNet that draws without the projection as it did with it.

    Args:
        unet: Left as it is.
        matrix: M (D, D).

    Returns:
        ``<module>.weight`` to tensors in the dtypes and on the devices of the UNet's own, computed in float64.

    Raises:
        ValueError: If the UNet's K and V cannot be told; see :func:`key_value_layers`.
        IntegrityError: If M is not of the UNet's width.
    """
    exact = _multiplied(unet, matrix)
    layers = key_value_layers(unet)
    return {f"{name}.weight": exact[name].to(layer.weight) for name, layer in layers.items()}


def _multiplied(unet: nn.Module, matrix: Tensor) -> Mapping[str, Tensor]:
    layers = key_value_layers(unet)
    require_square(matrix, next(iter(layers.values())).in_features)
    exact = matrix.detach().to("cpu", torch.float64)
    # On the CPU: not every accelerator has float64.
    return {name: layer.weight.detach().to("cpu", torch.float64) @ exact for name, layer in layers.items()}


def export_key_values(path: str | Path, unet: nn.Module, matrix: Tensor, *, overwrite: bool = False) -> Path:
    """Write W M for every cross-attention K and V as the authors of UCE publish their edits.

    Load them with ``unet.load_state_dict({**unet.state_dict(), **load_file(path)})``, which refuses the file of another
    UNet. An edit that is loaded and the projection it came from must not be used together.

    Args:
        path: Path of the safetensors file; ``<module>.weight`` names, float32.
        unet: The UNet that the file is for; left as it is.
        matrix: M (D, D).
        overwrite: Replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: If there is something and ``overwrite`` is not set.
        ValueError: If the UNet's K and V cannot be told.
        IntegrityError: If M is not of the UNet's width.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected nothing at {path}, found a file; choose another name, or set overwrite")
    weights = {f"{name}.weight": weight.float() for name, weight in _multiplied(unet, matrix).items()}
    write_atomically(path, safetensors.torch.save(weights, metadata={"format": "pt"}))
    return path
