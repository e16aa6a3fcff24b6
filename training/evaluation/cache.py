"""Resumable work: every finished part of an evaluation is one file, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from safetensors.torch import save
from torch import Tensor

from robust_encoders.artifact.owned_file import OwnedFile, read_owned
from robust_encoders.utils.atomic_folders import temporary_of
from robust_encoders.utils.home import HOUR, remove_aged, write_atomically

from ..provenance import canonical_sha256, write_json

logger = logging.getLogger(__name__)


@dataclass
class Cache:
    """The finished parts of one evaluation.

    Args:
        folder: Folder of the files.
        inputs: Values that every part depends on; a part made from other inputs is made again.
        reuse: Folders of the same kind; a part that one of them holds, made from the same inputs, is copied.
        seconds: Name of a part to the seconds that it took; filled by use.
    """

    folder: Path
    inputs: Mapping[str, Any]
    reuse: tuple[Path, ...] = ()
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
            stored = self._copied(name, key)
        if stored is None:
            start = time.monotonic()
            # A fresh value goes through JSON as well, so that a resumed evaluation has the same types.
            plain = json.loads(json.dumps(compute(), allow_nan=False))
            stored = {"key": key, "seconds": round(time.monotonic() - start, 3), "value": plain}
            write_json(path, stored, compact=True)
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
        for place in (path, *(folder / f"{name}.safetensors" for folder in self.reuse)):
            if (file := _tensor_file(place, key)) is not None:
                self.seconds[name] = json.loads(file.metadata["cell"])["seconds"]
                if place != path:
                    _copy(place, path)
                return file.tensors["value"]
        if path.exists():
            _warn(path)
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
        _warn(path)
        return None

    def _copied(self, name: str, key: str) -> dict[str, Any] | None:
        """Return a part of another evaluation after its files were copied; None if no folder holds it."""
        for folder in self.reuse:
            path = folder / f"{name}.json"
            stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"key": None}
            if stored["key"] == key:
                logger.info("%s: taken from %s", name, folder)
                pictures = path.with_suffix(".zip")
                if pictures.exists():
                    _copy(pictures, self.folder / f"{name}.zip")
                _copy(path, self.folder / f"{name}.json")  # last: with it the part is finished
                found: dict[str, Any] = stored
                return found
        return None


def _tensor_file(path: Path, key: str) -> OwnedFile | None:
    """Return a file of one tensor if it was made from the inputs of a key."""
    if not path.exists():
        return None
    file = read_owned(path)
    return file if json.loads(file.metadata["cell"])["key"] == key else None


def _warn(path: Path) -> None:
    logger.warning("%s: made from other inputs (weights, prompts or settings), made again", path)


def _copy(source: Path, target: Path) -> None:
    """Copy a file in pieces; readers never see an incomplete one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_aged(target.parent, temporary_of(target.name), HOUR)
    aside = target.with_name(f".{target.name}-{token_hex(4)}")
    try:
        shutil.copyfile(source, aside)
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
