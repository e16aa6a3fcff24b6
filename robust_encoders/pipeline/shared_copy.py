"""Twins of a pipeline's components: the same weights in memory, and a module of their own to put hooks on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import UnsavableError

_ORIGINAL = "_robust_encoders_original"
# What accelerate puts on a module that it moves around: all of it speaks of that one module.
_OFFLOADING = ("_hf_hook", "_old_forward", "forward")


class Original:
    """What a twin was made of; a copy of the twin has the same one."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Original:
        return self


def shared_copy(module: nn.Module, label: str) -> nn.Module:
    """Return a copy of a module with Parameters of its own over the same storage.

    Moving or casting either leaves the other where it is. The copy refuses to be saved, because hooks on it would not
    be; :func:`allow_saving` lifts that.

    Args:
        module: Component of a pipeline, not compiled and not offloaded sequentially.
        label: Names of the overlays to be put on it, for the message.
    """
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in module.parameters()
    }
    memo |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    with _at_rest(module):
        made = copy.deepcopy(module, memo)
    # Not by attribute: the original would become a part of its own copy.
    vars(made)[_ORIGINAL] = Original(module)
    vars(made)["save_pretrained"] = partial(_refuse, type(module).__name__, label)
    return made


def allow_saving(module: nn.Module) -> None:
    """Let a twin be saved: everything that is on it is in its weights."""
    vars(module).pop("save_pretrained", None)


def original_of(module: Any) -> Any:
    """Return what a twin was made of, unwrapped, or the module itself where it is no twin."""
    module = unwrapped(module)
    kept = getattr(module, _ORIGINAL, None)
    return module if kept is None else kept.module


def is_shared_copy(module: Any) -> bool:
    """Return whether a module, perhaps compiled, is a twin."""
    return getattr(unwrapped(module), _ORIGINAL, None) is not None


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Take off, for the time of the block, what moves a module around while its pipeline runs."""
    kept = {
        name: vars(module).pop(name) for name in _OFFLOADING if hasattr(module, "_hf_hook") and name in vars(module)
    }
    try:
        yield
    finally:
        vars(module).update(kept)


def _refuse(kind: str, label: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise UnsavableError(
        f"expected a {kind} that its own weights describe, found {label} attached to it, which would be missing from "
        "what is saved; detach it first and save it by its own save_pretrained, or fuse it into the weights"
    )
