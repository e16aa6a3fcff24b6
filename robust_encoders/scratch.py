"""Folders to work in that a process which was killed does not leave behind for ever.

Whoever works in one holds a lock in it. The operating system lets go of the lock when the process ends, however it
ends, and the next one to work at the same place removes what nobody holds.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = "in-use.lock"
# Seconds in which a folder that was just made may not be locked yet.
GRACE = 10.0
# What a lock raises that another holds, and what one raises on a file system that has none.
_NOT_MINE = (Timeout, OSError, NotImplementedError)


def temporary_of(name: str) -> re.Pattern[str]:
    """Return what matches the names that ``tempfile`` makes with the prefix ``.<name>-``, and no others.

    Args:
        name: Of the file or folder that the temporary one is for.
    """
    return re.compile(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}")


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder to work in, hold it, and remove it when the block ends.

    Args:
        parent: Where it is made; made if need be.
        name: What it is for; see :func:`remove_abandoned`.

    Yields:
        The folder. On a file system without locks nobody holds it and nobody takes it for abandoned.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        lock = FileLock(folder / LOCK_NAME)
        cleanup.callback(_discard, folder, lock)
        with suppress(*_NOT_MINE):
            lock.acquire(timeout=0)
        yield folder


def remove_abandoned(parent: Path, name: str, rescue: Callable[[Path], None] = lambda folder: None) -> None:
    """Remove the folders that killed processes left.

    Args:
        parent: As given to :func:`scratch`; it may not exist.
        name: As given to :func:`scratch`.
        rescue: Called with each folder before it is removed, while no other process can touch it.
    """
    pattern = temporary_of(name)
    for folder in [path for path in parent.glob("*") if pattern.fullmatch(path.name)]:
        if _age(folder) < GRACE:
            continue
        if not (folder / LOCK_NAME).is_file():
            with suppress(OSError):  # not ours, or killed before it did anything: removed only if it is empty
                folder.rmdir()
            continue
        _remove(folder, rescue)


def _remove(folder: Path, rescue: Callable[[Path], None]) -> None:
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except _NOT_MINE:
        return
    with ExitStack() as cleanup:
        cleanup.callback(_discard, folder, lock)
        rescue(folder)


def _discard(folder: Path, lock: FileLock) -> None:
    # The lock goes last: without it, what a process leaves that is killed meanwhile would be nobody's to remove.
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            with suppress(OSError):
                path.unlink()
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.lstat().st_mtime
    except OSError:
        return 0.0
