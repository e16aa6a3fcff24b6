"""The components of a pipeline, also those that diffusers leaves out of ``components``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robust_encoders.clip.state_dict import unwrapped


def part_of(pipe: Any, name: str) -> Any:
    """Return what is in a slot of a pipeline; None for an empty slot and for one that was deleted.

    For a deleted slot, diffusers itself returns the slot's entry in the configuration.

    Args:
        pipe: A diffusers pipeline, or any other object.
        name: Name of the slot.
    """
    own: Mapping[str, Any] = getattr(pipe, "__dict__", {})
    if name in own:
        return own[name]
    registered = name in own.get("_internal_dict", ()) and not hasattr(type(pipe), name)
    return None if registered else getattr(pipe, name, None)


def parts_of(pipe: Any) -> dict[str, Any]:
    """Return the components of a pipeline by name, with None for empty slots; empty for any other object.

    ``components`` of diffusers lacks what has a default in the signature of ``__init__``, and fails for a signature
    without names, as in ``def __init__(self, *args, **kwargs)``. Their entries in the configuration name them.

    Args:
        pipe: A diffusers pipeline, or any other object.
    """
    listed = _listed(pipe)
    return listed | {name: part_of(pipe, name) for name in _registered(pipe)}


def _listed(pipe: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = dict(getattr(pipe, "components", {}))
    except ValueError:  # raised by diffusers where the signature of __init__ does not name the components
        return {}
    return found


def _registered(pipe: Any) -> list[str]:
    """Return the names that ``register_modules`` noted in the configuration, each with a library and a class."""
    config = getattr(pipe, "config", None)
    entries = config.items() if isinstance(config, Mapping) else ()
    return [name for name, entry in entries if not name.startswith("_") and _names_class(entry)]


def _names_class(entry: Any) -> bool:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        return False
    return all(one is None or isinstance(one, str) for one in entry)


def is_text_encoder(name: str, part: Any) -> bool:
    """Return true if a slot is one for a text encoder, or holds a model that encodes texts, such as a whole CLIP.

    Args:
        name: Name of the slot.
        part: Object in the slot, perhaps compiled; None for an empty slot.
    """
    return "text_encoder" in name or callable(getattr(unwrapped(part), "get_text_features", None))


def text_encoders_of(pipe: Any) -> dict[str, Any]:
    """Return what the slots for text encoders hold, by name and in order; other models that encode texts come last.

    Args:
        pipe: A diffusers pipeline.
    """
    found = {name: part for name, part in parts_of(pipe).items() if is_text_encoder(name, part)}
    return {name: found[name] for name in sorted(found, key=lambda name: ("text_encoder" not in name, name))}
