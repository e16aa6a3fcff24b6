"""Device, dtype and offload hooks of a component, as set up by accelerate and diffusers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from robust_encoders.clip.state_dict import device_and_dtype, unwrapped
from robust_encoders.pipeline.parts import part_of

Mode = Literal[
    "none", "model offload", "sequential offload", "group offload", "layerwise casting", "device map", "unknown hook"
]
SUPPORTED: tuple[Mode, ...] = ("none", "model offload", "sequential offload")
# Precisions that layers compute in. Others (fp8, integers) only store weights for layers of special code.
COMPUTING = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


def mode_of(pipe: Any, module: nn.Module | None) -> Mode:
    """Return the kind of offloading that moves ``module`` between devices while ``pipe`` runs.

    Args:
        pipe: The pipeline.
        module: Component of the pipeline; None for an empty slot, for which the denoiser's offloading counts.
    """
    module = denoiser_of(pipe) if module is None else module
    # A device map may also be a string: one device for all components, which needs no hooks.
    if isinstance(getattr(pipe, "hf_device_map", None), dict):
        return "device map"
    parts = [] if module is None else list(unwrapped(module).modules())
    # diffusers keeps the hook registry of a module even after its last hook is removed. The registry comes first,
    # because offloading whole models goes together with its hooks.
    registries = [part._diffusers_hook for part in parts if hasattr(part, "_diffusers_hook")]
    if names := {name for registry in registries for name in registry.hooks}:
        return _known(names)
    if getattr(pipe, "_all_hooks", None):
        return "model offload"
    hooks = [part._hf_hook for part in parts if hasattr(part, "_hf_hook")]
    if not hooks:
        return "none"
    return "sequential offload" if _aligns(hooks[0]) else "unknown hook"


def denoiser_of(pipe: Any) -> nn.Module | None:
    """Return the denoiser of a pipeline, its UNet or transformer, which reads the conditioning; None without either.

    Args:
        pipe: The pipeline.
    """
    parts = (unwrapped(part_of(pipe, name)) for name in ("unet", "transformer"))
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def _known(names: set[str]) -> Mode:
    if any("group_offloading" in name for name in names):
        return "group offload"
    return "layerwise casting" if "layerwise_casting" in names else "unknown hook"


def _aligns(hook: Any) -> bool:
    from accelerate.hooks import AlignDevicesHook

    return any(isinstance(inner, AlignDevicesHook) for inner in getattr(hook, "hooks", [hook]))


def follow(module: nn.Module, leader: nn.Module) -> None:
    """Move ``module`` to the device and dtype of ``leader``, or offload it sequentially in the same way.

    A dtype that layers do not compute in is not taken over, because plain layers fail in it.

    Args:
        module: New component, without a ``torch.compile`` wrapper. It is not changed if it already matches.
        leader: Component to follow, without a ``torch.compile`` wrapper.
    """
    if any(hasattr(part, "_hf_hook") and _aligns(part._hf_hook) for part in leader.modules()):
        _offload_like(module, leader)
        return
    if hasattr(module, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(module, recurse=True)
    if device_and_dtype(module) != (place := _place(module, leader)):
        module.to(*place)
    _follow_by_name(module, leader)


def _place(module: nn.Module, leader: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device of a leader, and its dtype if layers compute in it; otherwise the module's own dtype."""
    device, dtype = device_and_dtype(leader)
    return device, dtype if dtype in COMPUTING else device_and_dtype(module)[1]


def _follow_by_name(module: nn.Module, leader: nn.Module) -> None:
    """Follow a leader whose parameters have several dtypes or memory formats, name by name."""
    own = dict(module.named_parameters())
    for name, parameter in leader.named_parameters():
        there = own.get(name)
        if there is None or parameter.is_meta or there.shape != parameter.shape or parameter.dtype not in COMPUTING:
            continue
        strided = there.ndim == 4 and there.stride() != parameter.stride()
        if strided or (there.device, there.dtype) != (parameter.device, parameter.dtype):
            with torch.inference_mode(there.is_inference()), torch.no_grad():
                there.data = torch.empty_like(parameter).copy_(there)


def _offload_like(module: nn.Module, leader: nn.Module) -> None:
    if any(hasattr(part, "_hf_hook") for part in module.modules()):
        return
    from accelerate import cpu_offload

    hooks = [part._hf_hook for part in leader.modules() if hasattr(part, "_hf_hook")]
    inner = [each for hook in hooks for each in getattr(hook, "hooks", [hook])]
    device = next(h.execution_device for h in inner if getattr(h, "execution_device", None) is not None)
    cpu_offload(module.to("cpu", _place(module, leader)[1]), torch.device(device))
