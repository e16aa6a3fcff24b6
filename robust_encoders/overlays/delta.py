"""Deltas: the trained tensors of a UNet, as absolute values that replace the base's own.

ESD publishes its UNets in this way (Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023,
arXiv 2303.07345): only the trained tensors, under the parameter names of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.values import odd_values, shown

_WRAPPED = ".base_layer"


def require_delta(tensors: Mapping[str, Tensor]) -> None:
    """Check that a delta has tensors, and that all of them are finite floating-point numbers.

    Args:
        tensors: Mapping of parameter names to tensors.

    Raises:
        IntegrityError: If it has none, or others; the message counts the problems and names the first ones.
    """
    if problems := odd_values(tensors) if tensors else ["no tensors"]:
        raise IntegrityError(
            f"expected finite floating-point tensors of a UNet, found {shown(problems)}; make or fetch the delta again"
        )


def parameter_names(unet: nn.Module) -> dict[str, str]:
    """Map the name in a plain UNet of diffusers to the name in this UNet, for every parameter.

    Args:
        unet: UNet of diffusers. Where peft put a LoRA on a layer, the base layer inside counts.
    """
    names = (name for name, _ in unet.named_parameters() if ".lora_" not in name)
    return {name.replace(_WRAPPED, ""): name for name in names}


def misfits(unet: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the problems of a delta on a UNet, in words: tensors that it lacks, or has in another shape or kind.

    Args:
        unet: UNet of diffusers.
        tensors: Mapping of parameter names to tensors.
    """
    names, parameters = parameter_names(unet), dict(unet.named_parameters())
    problems = []
    for name in sorted(tensors):
        if name not in names:
            problems.append(f"no parameter {name}")
            continue
        own, shape = parameters[names[name]], tuple(tensors[name].shape)
        if not own.is_floating_point():
            problems.append(f"{name} quantised ({own.dtype})")
        elif tuple(own.shape) != shape:
            problems.append(f"{name} of shape {tuple(own.shape)} for {shape}")
    return problems


def replace_parameters(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace Parameters of a UNet by a delta's tensors, in the dtype and on the device of the Parameters.

    Args:
        unet: UNet of diffusers, which is changed. The storage of its former Parameters stays as it is.
        tensors: Mapping of parameter names to tensors without :func:`misfits`.

    Raises:
        IntegrityError: If a value becomes infinite in the dtype of the UNet.
    """
    names = parameter_names(unet)
    for name, tensor in tensors.items():
        path, _, leaf = names[name].rpartition(".")
        layer: Any = unet.get_submodule(path)
        own: nn.Parameter = getattr(layer, leaf)
        value = tensor.detach().to(own.device, own.dtype)
        if value.dtype != tensor.dtype and not bool(torch.isfinite(value).all()):
            raise IntegrityError(
                f"expected values of {name} within the range of {own.dtype}, found larger ones in {tensor.dtype}; load "
                "the pipeline in a wider precision"
            )
        setattr(layer, leaf, nn.Parameter(value, requires_grad=own.requires_grad))
