"""Files of a trajectory bank: a folder per base and schedule, a file per trajectory."""

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
from safetensors.torch import save_file
from torch import Tensor

from robust_encoders.artifact.owned_file import read_owned, shapes_of
from robust_encoders.errors import IntegrityError, TrainingError
from robust_encoders.utils.home import HOUR, expanded, remove_aged
from robust_encoders.utils.home import write_atomically as write_bytes

logger = logging.getLogger(__name__)
KEY_NAME = "key.json"
_ASIDE = re.compile(r"\..+\.safetensors-[0-9a-f]{8}")
StoredTrajectory = Mapping[str, Tensor]


class BankError(TrainingError):
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


class FileTrajectory(Mapping[str, Tensor]):
    """A trajectory on disk; each access reads the file into memory, so a bank may be larger than memory.

    A mapped file would show what another program writes into it, and would end the process if it were cut off.

    Args:
        path: File of the trajectory.
        shapes: Mapping of the names of its tensors to their shapes.
        state: State of the file when it was opened.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], state: os.stat_result) -> None:
        self.path, self.shapes, self._state = path, dict(shapes), state

    def __getitem__(self, name: str) -> Tensor:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def read(self) -> dict[str, Tensor]:
        """Return all tensors; a file that another process moved into place is read like the first one.

        Raises:
            BankError: The file was removed, cut off or written to since it was opened.
        """
        try:
            file = read_owned(self.path)
        except IntegrityError as error:
            raise self._changed(str(error)) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
        if file.state is None or shapes != self.shapes or self._was_written(file.state):
            raise self._changed("that it was written to")
        return file.tensors

    def _was_written(self, now: os.stat_result) -> bool:
        return now.st_ino == self._state.st_ino and now.st_mtime_ns != self._state.st_mtime_ns

    def _changed(self, found: str) -> BankError:
        return BankError(
            f"expected {self.path} unchanged while the bank is in use, found {found}; delete it and run the command "
            "again: finished iterations of a run with checkpoints are kept"
        )


def in_memory(shard: StoredTrajectory) -> StoredTrajectory:
    """Return the tensors of a trajectory in memory; the file of a trajectory on disk is read once for all of them."""
    return shard.read() if isinstance(shard, FileTrajectory) else shard


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
    def open(cls, cache_dir: str | Path, key: Mapping[str, Any]) -> BankStore:
        """Return the bank of ``key`` among the banks in ``cache_dir``; a new bank is empty.

        Args:
            cache_dir: Parent folder of all banks.
            key: Everything that a trajectory depends on except prompt and seed, see ``bank_key``. Its hash names the
                folder, and the key is written into the folder.

        Raises:
            BankError: The folder holds a bank of another key.
        """
        cache_dir = expanded(cache_dir)
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

    def read(self, name: str) -> FileTrajectory:
        """Return a trajectory whose tensors are read from disk on access.

        Raises:
            BankError: The file is damaged, or holds a trajectory with another number of steps or latent shape.
        """
        path = self._path(name)
        try:
            found, state = shapes_of(path), path.stat()
        except (IntegrityError, OSError) as error:
            raise BankError(
                f"expected a trajectory in {path}, cannot read it: {error}; delete it and run the command again"
            ) from error
        shapes = {key: shape for key, shape in found.items() if key != "t"}
        wanted = (self.steps, *self.latent_shape)
        if not {"latents", "pred_null", "pred_cond"} <= set(shapes) or set(shapes.values()) != {wanted}:
            raise BankError(
                f"expected latents and predictions of shape {wanted} in {path}, found {shapes}; "
                "delete it and run the command again"
            )
        return FileTrajectory(path, found, state)

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
