"""Folders to work in that a process which was killed does not leave behind for ever.

Whoever works in one holds a lock in it. The operating system lets go of the lock when the process ends, however it
ends, and the next one to work at the same place removes what nobody holds.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = "in-use.lock"
# Seconds in which a folder that was just made may not have its lock yet.
GRACE = 10.0
# How often a folder is made anew because somebody else locked it first, and took it for abandoned.
TRIES = 20
# What a lock raises that another holds, and what one raises on a file system that has none.
_NOT_MINE = (Timeout, OSError, NotImplementedError)
# Does what is still to be done with a folder, and says whether it must stay all the same.
Rescue = Callable[[Path], bool]


def _nothing(folder: Path) -> bool:
    return False


def temporary_of(name: str) -> re.Pattern[str]:
    """Return what matches the names that ``tempfile`` makes with the prefix ``.<name>-``, and no others.

    Args:
        name: Name of the file or folder that the temporary one is for.
    """
    return re.compile(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}")


@contextmanager
def scratch(parent: Path, name: str, rescue: Rescue = _nothing) -> Iterator[Path]:
    """Make a folder to work in, hold it, and remove it when the block ends.

    Args:
        parent: Folder that it is made in; made if need be.
        name: Name of the file or folder that it is for; see :func:`remove_abandoned`.
        rescue: Called before it is removed, however the block ends; if it returns true or raises, the folder stays.

    Yields:
        The folder. On a file system without locks nobody holds it and nobody takes it for abandoned.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _make(parent, name)
    with ExitStack() as cleanup:
        cleanup.callback(_finish, folder, lock, rescue)
        yield folder


def _make(parent: Path, name: str) -> tuple[Path, FileLock]:
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # Who holds it removes it.
        except _NOT_MINE:
            pass
        return folder, lock
    raise OSError(f"expected a folder in {parent} that nobody else locks, found none in {TRIES}; use another place")


def remove_abandoned(parent: Path, name: str, rescue: Rescue = _nothing) -> None:
    """Remove the folders that killed processes left.

    Args:
        parent: As given to :func:`scratch`; it may not exist.
        name: As given to :func:`scratch`.
        rescue: Called with each folder before it is removed, while no other process can touch it; if it returns true
            or raises, the folder stays.
    """
    pattern = temporary_of(name)
    for folder in [path for path in parent.glob("*") if pattern.fullmatch(path.name) and _ours(path)]:
        if (folder / LOCK_NAME).is_file():
            _remove(folder, rescue)
        elif _age(folder) >= GRACE:
            with suppress(OSError):  # not ours, or killed before it did anything: removed only if it is empty
                folder.rmdir()


def _ours(path: Path) -> bool:
    """Return whether a path is a folder, not a link to one, that belongs to the user of this process."""
    try:
        state = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and (not hasattr(os, "getuid") or state.st_uid == os.getuid())


def _remove(folder: Path, rescue: Rescue) -> None:
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except _NOT_MINE:
        return
    _finish(folder, lock, rescue)


def _finish(folder: Path, lock: FileLock, rescue: Rescue) -> None:
    try:
        stays = rescue(folder)
        if not stays:
            _discard(folder)
    finally:
        lock.release()
    with suppress(OSError):
        if os.name == "nt" and not stays:  # Where a file that is open cannot be removed.
            (folder / LOCK_NAME).unlink()
        folder.rmdir()


def _discard(folder: Path) -> None:
    # The lock goes last: without it, what a process leaves that is killed meanwhile would be nobody's to remove.
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        if len(list(folder.glob("*"))) == 1:
            (folder / LOCK_NAME).unlink()


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.lstat().st_mtime
    except OSError:
        return 0.0
