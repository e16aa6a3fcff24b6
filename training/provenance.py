"""What a run was made from: settings as JSON values, hashes of them, versions of libraries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import write_atomically

LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "safetensors")
# Metadata of a setting that the short help leaves out: `train METHOD --help-all` shows it.
EXTRA = {"extra": True}
JUDGING = ("torchattacks", "torchmetrics", "nudenet")


def describe(value: Any) -> Any:
    """Return a configuration as plain JSON values: every dataclass as ``{"name": ..., **fields}`` where it is named."""
    if is_dataclass(value) and not isinstance(value, type):
        # `fields` leaves class variables out, and an eraser's or attack's name is one.
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
    return {name: version(name) for name in LIBRARIES}


def judging_versions() -> dict[str, str]:
    """Return the same with those libraries that only evaluations use, where they are installed."""
    return {**library_versions(), **{name: version(name) for name in JUDGING if find_spec(name)}}


def canonical_sha256(value: Any) -> str:
    """Return the hash of a JSON value, the same for equal values whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; whoever reads it never sees half of it."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
