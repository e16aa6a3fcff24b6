"""Files of a trajectory bank: a folder per base and schedule, a memory-mapped file per trajectory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robust_encoders.utils.home import HOUR, remove_aged
from robust_encoders.utils.home import write_atomically as write_bytes

logger = logging.getLogger(__name__)
KEY_NAME = "key.json"
_ASIDE = re.compile(r"\..+\.safetensors-[0-9a-f]{8}")
StoredTrajectory = dict[str, Tensor]


class BankError(RuntimeError):
    """A bank on disk that belongs to another base or schedule, or has a damaged file, or a value that does not fit."""


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the differences between two keys, one text each; long values such as hashes are shortened."""
    said = []
    for name in sorted({*expected, *found}):
        a, b = expected.get(name), found.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            said += [f"{name}.{text}" for text in differences(a, b)]
        elif a != b:
            said.append(f"{name} {str(b)[:24]} instead of {str(a)[:24]}")
    return said


@dataclass(frozen=True)
class BankStore:
    """The files of one bank, which several processes may fill and read at the same time.

    Files are written atomically and never change; a bank grows by further files. A process that runs a trajectory holds
    its lock, which the operating system releases if the process dies.

    Args:
        folder: Folder of this bank alone.
        steps: Number of steps of every trajectory.
        latent_shape: Shape (C, h, w) of a latent.
    """

    folder: Path
    steps: int
    latent_shape: tuple[int, ...]

    @classmethod
    def open(cls, cache_dir: Path, key: Mapping[str, Any]) -> BankStore:
        """Return the bank of ``key`` among the banks in ``cache_dir``; a new bank is empty.

        Args:
            cache_dir: Parent folder of all banks.
            key: Everything that a trajectory depends on except prompt and seed, see ``bank_key``. Its hash names the
                folder, and the key is written into the folder.

        Raises:
            BankError: The folder holds a bank of another key.
        """
        folder = cache_dir / digest(key)[:24]
        note = folder / KEY_NAME
        if note.exists():
            _require_same(key, note)
        else:
            _say_closest(cache_dir, key)
            write_bytes(note, json.dumps(key, indent=1, sort_keys=True).encode())
        remove_aged(folder, _ASIDE, HOUR)
        return cls(folder, key["steps"], tuple(key["latent_shape"]))

    def has(self, name: str) -> bool:
        """Return True if the trajectory ``name`` is on disk."""
        return self._path(name).exists()

    def write(self, name: str, shard: StoredTrajectory) -> None:
        """Write a trajectory to disk."""
        write_shard(shard, self._path(name))

    def read(self, name: str) -> StoredTrajectory:
        """Return a trajectory; its tensors are memory-mapped and read from disk on access.

        Raises:
            BankError: The file is damaged, or holds a trajectory with another number of steps or latent shape.
        """
        path = self._path(name)
        try:
            shard = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise BankError(
                f"expected a trajectory in {path}, cannot read it: {error}; delete it and run the command again"
            ) from error
        shapes = {key: tuple(tensor.shape) for key, tensor in shard.items() if key != "t"}
        wanted = (self.steps, *self.latent_shape)
        if not {"latents", "pred_null", "pred_cond"} <= set(shapes) or set(shapes.values()) != {wanted}:
            raise BankError(
                f"expected latents and predictions of shape {wanted} in {path}, found {shapes}; "
                "delete it and run the command again"
            )
        return shard

    @contextmanager
    def claimed(self, names: Sequence[str], most: int) -> Iterator[list[str]]:
        """Lock the first trajectories that are not on disk and that no other process is running, and yield their names.

        Args:
            names: Names of trajectories to choose from.
            most: Largest number of trajectories to lock at once.
        """
        with ExitStack() as held:
            mine: list[str] = []
            for name in names:
                if len(mine) < most and self._claim(name, held):
                    mine.append(name)
            yield mine

    def wait_for(self, name: str) -> None:
        """Return once no process is running the trajectory ``name``; the trajectory may still be missing then."""
        with self._lock(name):
            self._forget(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _lock(self, name: str) -> Any:
        return FileLock(self.folder / f"{name}.lock")

    def _claim(self, name: str, held: ExitStack) -> bool:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        held.callback(lock.release)
        # A process that waits for a deleted lock acquires it and finds the file on disk. In the worst case, two
        # processes write the same file.
        held.callback(self._forget, name)
        return not self.has(name)

    def _forget(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / f"{name}.lock").unlink()


def write_shard(tensors: StoredTrajectory, path: Path) -> None:
    """Write a safetensors file under a temporary name and rename it, so that a reader never sees half of a file."""
    aside = path.with_name(f".{path.name}-{token_hex(4)}")
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, str(aside), metadata={"format": "pt"}
        )
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _require_same(key: Mapping[str, Any], note: Path) -> None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BankError(f"expected the key of a bank in {note}, found no JSON; delete {note.parent}") from error
    if others := differences(key, found):
        raise BankError(
            f"expected a bank of this base and schedule in {note.parent}, found another: {'; '.join(others)}; "
            "delete the folder, or give another --cache-dir"
        )


def _say_closest(cache_dir: Path, key: Mapping[str, Any]) -> None:
    """Log the differences from the most similar existing bank: often a setting was changed by mistake."""
    gaps: list[list[str]] = []
    for note in cache_dir.glob(f"*/{KEY_NAME}"):
        with suppress(OSError, ValueError):
            gaps.append(differences(key, json.loads(note.read_text(encoding="utf-8"))))
    if gaps:
        closest = "; ".join(sorted(gaps, key=len)[0])
        logger.info("new bank beside %d others in %s; the most similar one has %s", len(gaps), cache_dir, closest)
