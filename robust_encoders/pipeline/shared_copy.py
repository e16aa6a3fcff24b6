"""Shared copies of a pipeline's components: separate modules for hooks, which share the weights' memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import UnsavableError
from robust_encoders.pipeline.foreign_code import foreign_hooks

_ORIGINAL = "_robust_encoders_original"
# Attributes that accelerate sets on a module that it offloads. They belong to that module and must not be copied.
_OFFLOADING = ("_hf_hook", "_old_forward", "forward")


class Original:
    """The original module of a shared copy, which is no submodule of it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def shared_copy(module: nn.Module, label: str) -> nn.Module:
    """Return a copy of a module with its own Parameters over the same storage.

    Moving or casting one of the two leaves the other as it is. The copy refuses to be saved, because its hooks would be
    lost; :func:`allow_saving` lifts that.

    Args:
        module: Component of a pipeline, not compiled and not offloaded sequentially.
        label: Names of the overlays on the copy, for the error message.
    """
    memo: dict[int, Any] = {id(parameter): _over_same_storage(parameter) for parameter in module.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    memo |= {id(one): one for one in _observers(module)}
    with _at_rest(module):
        made = copy.deepcopy(module, memo)
    # Not set as an attribute, because torch would register the original as a submodule of its copy.
    vars(made)[_ORIGINAL] = Original(module)
    vars(made)["save_pretrained"] = partial(_refuse, type(module).__name__, label)
    return made


def _over_same_storage(parameter: nn.Parameter) -> nn.Parameter:
    # torch refuses a trainable Parameter over a tensor of inference mode, except in inference mode.
    with torch.inference_mode() if parameter.is_inference() else nullcontext():
        return nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)


def _observers(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks and attention processors of other code, whose memory must stay the one that this code reads."""
    parts = {id(part) for part in module.modules()}
    for _, _, _, hook in foreign_hooks(module):
        # A hook that is bound to a part of the module, perhaps by partial, is copied and bound to the copy's part.
        if not isinstance(hook, partial) and id(getattr(hook, "__self__", None)) not in parts:
            yield hook
    for part in module.modules():
        processor = getattr(part, "processor", None)
        if processor is not None and not isinstance(processor, nn.Module) and not _is_stock(processor):
            yield processor


def _is_stock(processor: Any) -> bool:
    return type(processor).__module__.partition(".")[0] == "diffusers"


def allow_saving(module: nn.Module) -> None:
    """Allow a shared copy to be saved, because all its overlays are fused into its weights."""
    vars(module).pop("save_pretrained", None)


def original_of(module: Any) -> Any:
    """Return the original of a shared copy, or any other module itself; a ``torch.compile`` wrapper is removed."""
    module = unwrapped(module)
    kept = getattr(module, _ORIGINAL, None)
    return module if kept is None else kept.module


def is_shared_copy(module: Any) -> bool:
    """Return true if a module, perhaps compiled, is a shared copy."""
    return getattr(unwrapped(module), _ORIGINAL, None) is not None


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Remove a module's offload hooks for the length of the block."""
    offloaded = hasattr(module, "_hf_hook")
    kept = {name: vars(module).pop(name) for name in _OFFLOADING if offloaded and name in vars(module)}
    try:
        yield
    finally:
        vars(module).update(kept)


def _refuse(kind: str, label: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise UnsavableError(
        f"expected a {kind} without live overlays, found {label} attached to it, which would be missing from the saved "
        "files; detach it first and save it by its own save_pretrained, or fuse it into the weights if it is no eraser"
    )
