"""What trainers and wrappers put around a state dict: entries of a checkpoint, and prefixes of names.

A trainer saves the state dict as one entry of a dict, with its settings, step and optimizer beside it.
DistributedDataParallel, ``torch.compile`` and FSDP add a segment to every name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from robust_encoders.errors import IntegrityError

T = TypeVar("T")
# Entries under which trainers save a model, and entries that hold a text encoder if there is no other component.
_ENTRIES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "student", "weights")
TEXT_ENCODER, UNET = "text_encoder", "unet"
# DistributedDataParallel; torch.compile; FSDP; activation checkpointing.
_SEGMENTS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_DEEPEST = 4


def unwrapped_entry(data: Any, path: Path) -> tuple[Any, str]:
    """Return the entry of a trainer's file that holds the model, and its dotted name.

    Args:
        data: Content of the file.
        path: Path of the file, for the error message.

    Returns:
        The entry and its name, for example ``model_state_dict``; ``data`` itself and an empty name if there is none.

    Raises:
        IntegrityError: If several entries could be the model.
    """
    entry: list[str] = []
    while len(entry) < _DEEPEST and isinstance(data, Mapping):
        found = [name for name in _ENTRIES if isinstance(data.get(name), Mapping)]
        if len(found) > 1:
            raise IntegrityError(
                f"expected one state dict in {path}, found {len(found)}: {', '.join(found)}; save the one that you "
                "want to a file of its own"
            )
        if not found:
            break
        data = data[found[0]]
        entry.append(found[0])
    return data, ".".join(entry)


def text_encoder_entry(data: Any) -> tuple[Any, str]:
    """Return the entry ``text_encoder`` of a file that holds no UNet beside it, and its name; else the data itself.

    Args:
        data: Content of a file, see :func:`unwrapped_entry`.
    """
    alone = isinstance(data, Mapping) and isinstance(data.get(TEXT_ENCODER), Mapping) and not data.get(UNET)
    return (data[TEXT_ENCODER], TEXT_ENCODER) if alone else (data, "")


def unwrapped_names(named: Mapping[str, T], path: Path) -> dict[str, T]:
    """Return the same values under names without the segments of wrappers, such as ``module.`` or ``_orig_mod.``.

    Args:
        named: Mapping of names to values.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If two names become one.
    """
    found: dict[str, T] = {}
    for name, value in named.items():
        short = unwrapped_name(name)
        if short in found:
            raise IntegrityError(
                f"expected every tensor once in {path}, found {short[:80]!r} with and without the prefix of a wrapper "
                "(DistributedDataParallel, torch.compile); save the unwrapped model's state dict"
            )
        found[short] = value
    return found


def unwrapped_name(name: str) -> str:
    """Return a tensor's name without the segments that wrappers add.

    Args:
        name: Name of a tensor.
    """
    return ".".join(part for part in name.split(".") if part not in _SEGMENTS)
