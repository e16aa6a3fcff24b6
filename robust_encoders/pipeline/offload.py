"""Where a component lives: devices, dtypes and the offload hooks of accelerate and diffusers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from robust_encoders.clip.state_dict import device_and_dtype, unwrapped

Mode = Literal[
    "none", "model offload", "sequential offload", "group offload", "layerwise casting", "device map", "unknown hook"
]
SUPPORTED: tuple[Mode, ...] = ("none", "model offload", "sequential offload")


def mode_of(pipe: Any, module: nn.Module | None) -> Mode:
    """Return how ``module`` is moved around while ``pipe`` runs.

    Args:
        pipe: The pipeline.
        module: One of its components; None for a slot that is empty, whose newcomer is put beside the denoiser.
    """
    module = denoiser_of(pipe) if module is None else module
    # A device map that is a string names one device for everything, which needs no hooks.
    if isinstance(getattr(pipe, "hf_device_map", None), dict):
        return "device map"
    if getattr(pipe, "_all_hooks", None):
        return "model offload"
    if module is None:
        return "none"
    parts = list(unwrapped(module).modules())
    # A registry stays behind when its last hook is removed.
    registries = [part._diffusers_hook for part in parts if hasattr(part, "_diffusers_hook")]
    if names := {name for registry in registries for name in registry.hooks}:
        return _known(names)
    hooks = [part._hf_hook for part in parts if hasattr(part, "_hf_hook")]
    if not hooks:
        return "none"
    return "sequential offload" if _aligns(hooks[0]) else "unknown hook"


def denoiser_of(pipe: Any) -> nn.Module | None:
    """Return the part of a pipeline that reads the conditioning, its UNet or transformer; None where it has neither.

    Args:
        pipe: The pipeline.
    """
    parts = (unwrapped(getattr(pipe, name, None)) for name in ("unet", "transformer"))
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def _known(names: set[str]) -> Mode:
    if any("group_offloading" in name for name in names):
        return "group offload"
    return "layerwise casting" if "layerwise_casting" in names else "unknown hook"


def _aligns(hook: Any) -> bool:
    from accelerate.hooks import AlignDevicesHook

    return any(isinstance(inner, AlignDevicesHook) for inner in getattr(hook, "hooks", [hook]))


def imitate(module: nn.Module, model: nn.Module) -> None:
    """Give ``module`` the training mode and the trainable parameters of ``model``, name by name.

    Args:
        module: The newcomer.
        model: The component that it replaces, uncompiled and of the same class, so that their names are the same.
    """
    training = {name: part.training for name, part in model.named_modules()}
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, part in module.named_modules():
        part.training = training.get(name, model.training)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trainable.get(name, False))


def follow(module: nn.Module, leader: nn.Module) -> None:
    """Put ``module`` where ``leader`` is: same device and dtype, or offloaded sequentially in the same way.

    Args:
        module: The newcomer, uncompiled; nothing happens if it is there already.
        leader: The component that it replaces, uncompiled.
    """
    if any(hasattr(part, "_hf_hook") and _aligns(part._hf_hook) for part in leader.modules()):
        _offload_like(module, leader)
        return
    if hasattr(module, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(module, recurse=True)
    if device_and_dtype(module) != (place := device_and_dtype(leader)):
        module.to(*place)


def _offload_like(module: nn.Module, leader: nn.Module) -> None:
    if any(hasattr(part, "_hf_hook") for part in module.modules()):
        return
    from accelerate import cpu_offload

    hooks = [part._hf_hook for part in leader.modules() if hasattr(part, "_hf_hook")]
    inner = [each for hook in hooks for each in getattr(hook, "hooks", [hook])]
    device = next(h.execution_device for h in inner if getattr(h, "execution_device", None) is not None)
    cpu_offload(module.to("cpu", device_and_dtype(leader)[1]), torch.device(device))
