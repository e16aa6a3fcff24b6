"""Hooks and replaced ``forward`` methods that other code put on a module; they cannot be moved to another module."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Libraries whose hooks are renewed or carried over in other ways.
_LIBRARIES = ("accelerate", "diffusers", "robust_encoders", "transformers")


def foreign_hooks(module: nn.Module) -> Iterator[tuple[str, str, int, Any]]:
    """Yield the hooks that other code registered: module path, name of the table, key, and the hook itself.

    Args:
        module: Module without a ``torch.compile`` wrapper.
    """
    for name, part in module.named_modules():
        for table in _HOOKS:
            for key, hook in getattr(part, table).items():
                if _library(hook) not in _LIBRARIES:
                    yield name, table, key, hook


def _library(hook: Any) -> str:
    named = hook.func if isinstance(hook, partial) else hook
    return str(getattr(named, "__module__", type(named).__module__)).partition(".")[0]


def replaced_forwards(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of the parts whose ``forward`` was replaced on the object, not by accelerate's offloading.

    Args:
        module: Module without a ``torch.compile`` wrapper.
    """
    return tuple(name for name, part in module.named_modules() if _has_other_forward(part))


def _has_other_forward(part: nn.Module) -> bool:
    own = vars(part)
    if "forward" not in own or "_hf_hook" in own or "_diffusers_hook" in own:
        return False
    # Removing accelerate's hooks leaves the module's own method there.
    return getattr(own["forward"], "__func__", None) is not type(part).forward
