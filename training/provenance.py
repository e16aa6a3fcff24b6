"""Provenance of a run: its settings as JSON values, hashes of the settings, and versions of libraries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import write_atomically

LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "safetensors")
# Metadata of a setting that the short help omits; `train METHOD --help-all` shows it.
EXTRA = {"extra": True}
# Metadata of a setting that older manifests lack; its default trains as before, so it may be missing in a description.
ADDED = {"added": True}
JUDGING = ("torchattacks", "torchmetrics", "nudenet")


def describe(value: Any) -> Any:
    """Return a configuration as plain JSON values; a dataclass that has a name becomes ``{"name": ..., **fields}``."""
    if is_dataclass(value) and not isinstance(value, type):
        # `fields` omits class variables, and the name of an eraser or attack is a class variable.
        name = getattr(type(value), "name", None)
        named = {} if name is None else {"name": name}
        return {**named, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"expected a dataclass or plain values in a configuration, found {value!r}: it has no JSON form")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a run depends on."""
    return {name: _version(name) for name in LIBRARIES}


def judging_versions() -> dict[str, str]:
    """Return ``library_versions()`` and the versions of the installed libraries that only evaluations use."""
    return {**library_versions(), **{name: _version(name) for name in JUDGING if find_spec(name)}}


@cache  # every number of an evaluation states them, and the metadata of a library is a long file
def _version(library: str) -> str:
    return metadata.version(library)


def canonical_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of its keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write a JSON file atomically, so that a reader never sees an incomplete file.

    Args:
        path: Path of the file.
        value: JSON value.
        compact: True for one line without spaces; long lists of records are then much smaller.
    """
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_atomically(path, (json.dumps(value, ensure_ascii=False, allow_nan=False, **layout) + "\n").encode())
