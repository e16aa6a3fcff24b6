"""Resumable work: every finished part of an evaluation is one file, written whole or not at all."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.utils.home import write_atomically

from ..provenance import canonical_sha256, write_json

logger = logging.getLogger(__name__)


@dataclass
class Cache:
    """The finished parts of one evaluation.

    Args:
        folder: Folder of the files.
        inputs: Values that every part depends on; a part made from other inputs is made again.
        seconds: Name of a part to the seconds that it took; filled by use.
    """

    folder: Path
    inputs: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def get(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a part's value: read from its file if the inputs are the same, else computed and written.

        Args:
            name: Name of the file, without its ending.
            inputs: Values that this part depends on besides the common inputs, as JSON.
            compute: Function that makes the value, of JSON values only.
        """
        path = self.folder / f"{name}.json"
        key = self._key(inputs)
        stored = self._read(path, key)
        if stored is None:
            start = time.monotonic()
            # A fresh value goes through JSON as well, so that a resumed evaluation has the same types.
            plain = json.loads(json.dumps(compute(), allow_nan=False))
            stored = {"key": key, "seconds": round(time.monotonic() - start, 3), "value": plain}
            write_json(path, stored)
        self.seconds[name] = stored["seconds"]
        value: dict[str, Any] = stored["value"]
        return value

    def join(
        self, name: str, inputs: Mapping[str, Any], parts: Iterable[str], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return a part that is joined from finished parts, as ``get``; its seconds are the sum of theirs."""
        value = self.get(name, inputs, compute)
        spent = [self.seconds.pop(part) for part in dict.fromkeys(parts)]
        self.seconds[name] = round(sum(spent), 3)
        return value

    def tensor(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
        """Return a part that is one tensor and lies in a safetensors file; see ``get``."""
        path = self.folder / f"{name}.safetensors"
        key = self._key(inputs)
        if path.exists():
            file = read_owned(path)
            stored = json.loads(file.metadata["cell"])
            if stored["key"] == key:
                self.seconds[name] = stored["seconds"]
                return file.tensors["value"]
            logger.warning("%s: made from other inputs (weights, prompts or settings), made again", path)
        start = time.monotonic()
        value = compute().contiguous()
        seconds = self.seconds[name] = round(time.monotonic() - start, 3)
        write_atomically(path, save({"value": value}, {"cell": json.dumps({"key": key, "seconds": seconds})}))
        return value

    def _key(self, inputs: Mapping[str, Any]) -> str:
        return canonical_sha256({"common": self.inputs, "cell": inputs})

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        if not path.exists():
            return None
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            logger.info("%s: done before, kept", path.stem)
            return stored
        logger.warning("%s: made from other inputs (weights, prompts or settings), made again", path)
        return None
