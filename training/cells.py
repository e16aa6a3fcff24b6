"""Resumable work: every finished part of an evaluation is one JSON file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_encoders.home import write_atomically

logger = logging.getLogger(__name__)


def canonical_sha256(value: Any) -> str:
    """Return the hash of a JSON value, the same for equal values whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; whoever reads it never sees half of it."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


@dataclass
class Cells:
    """The cells of one evaluation.

    Args:
        folder: Where their files lie.
        inputs: What every cell depends on; a cell made from other inputs is made again.
    """

    folder: Path
    inputs: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def get(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a cell's value: from its file if that was made from the same inputs, else computed and written.

        Args:
            name: Names the file.
            inputs: What this cell depends on beside the common inputs, as JSON values.
            compute: Makes the value, of JSON values only.
        """
        path = self.folder / f"{name}.json"
        key = canonical_sha256({"common": self.inputs, "cell": inputs})
        stored = self._read(path, key)
        if stored is None:
            start = time.monotonic()
            # Through JSON even when fresh: a resumed evaluation must not differ by a tuple.
            plain = json.loads(json.dumps(compute(), allow_nan=False))
            stored = {"key": key, "seconds": round(time.monotonic() - start, 3), "value": plain}
            write_json(path, stored)
        self.seconds[name] = stored["seconds"]
        value: dict[str, Any] = stored["value"]
        return value

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        if not path.exists():
            return None
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            logger.info("%s: done before, kept", path.stem)
            return stored
        logger.warning("%s: made from other inputs (weights, prompts or settings), made again", path)
        return None
