"""Where the trajectories of a bank lie: a folder for each base and schedule, a mapped file for each trajectory."""

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
    """A bank on disk is of another base or schedule, or one of its files is damaged; the message says which."""


def digest(value: object) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what differs between two keys, in words; hashes are cut short."""
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
    """The files of one bank, which several processes may fill and read at once.

    A file appears whole or not at all, and never changes: a bank is extended by further files. Whoever runs a
    trajectory holds its lock, which the operating system drops if the process dies.

    Args:
        folder: Of this bank alone.
        steps: Of every trajectory.
        latent_shape: (C, h, w).
    """

    folder: Path
    steps: int
    latent_shape: tuple[int, ...]

    @classmethod
    def open(cls, cache_dir: Path, key: Mapping[str, Any]) -> BankStore:
        """Return the bank of ``key`` among those in ``cache_dir``, empty if it is new.

        Args:
            cache_dir: Parent of all banks.
            key: All that a trajectory depends on beside prompt and seed; names the folder, and is written into it.

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
        """Whether that trajectory has been run."""
        return self._path(name).exists()

    def write(self, name: str, shard: StoredTrajectory) -> None:
        """Keep a trajectory."""
        write_shard(shard, self._path(name))

    def read(self, name: str) -> StoredTrajectory:
        """Return a trajectory; its tensors are mapped, and fetched from disk when they are looked at.

        Raises:
            BankError: The file is damaged, or holds a trajectory of another length or size.
        """
        path = self._path(name)
        try:
            shard = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise BankError(f"expected a trajectory in {path}, cannot read it: {error}; delete it and go on") from error
        shapes = {key: tuple(tensor.shape) for key, tensor in shard.items() if key != "t"}
        wanted = (self.steps, *self.latent_shape)
        if not {"latents", "pred_null", "pred_cond"} <= set(shapes) or set(shapes.values()) != {wanted}:
            raise BankError(
                f"expected latents and predictions of shape {wanted} in {path}, found {shapes}; delete it and go on"
            )
        return shard

    @contextmanager
    def claimed(self, names: Sequence[str], most: int) -> Iterator[list[str]]:
        """Hold the first trajectories that are not there and that nobody else is running, and yield them.

        Args:
            names: To choose from.
            most: How many to hold at once.
        """
        with ExitStack() as held:
            mine: list[str] = []
            for name in names:
                if len(mine) < most and self._claim(name, held):
                    mine.append(name)
            yield mine

    def wait_for(self, name: str) -> None:
        """Return once nobody is running that trajectory any more, whether it is there or not."""
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
        # Who waits for a lock that is gone takes it and finds the file there; at worst two processes write the same.
        held.callback(self._forget, name)
        return not self.has(name)

    def _forget(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / f"{name}.lock").unlink()


def write_shard(tensors: StoredTrajectory, path: Path) -> None:
    """Write a safetensors file aside and rename it, so that a reader never sees half of one."""
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
            "delete it, or name another --cache-dir"
        )


def _say_closest(cache_dir: Path, key: Mapping[str, Any]) -> None:
    """Log why none of the banks that are there fits: often one setting was changed without meaning to."""
    gaps: list[list[str]] = []
    for note in cache_dir.glob(f"*/{KEY_NAME}"):
        with suppress(OSError, ValueError):
            gaps.append(differences(key, json.loads(note.read_text(encoding="utf-8"))))
    if gaps:
        closest = "; ".join(sorted(gaps, key=len)[0])
        logger.info("a new bank beside %d others in %s; the closest has %s", len(gaps), cache_dir, closest)
