"""Temporary working folders that are removed even if the process that made them was killed.

A process holds a lock file in its folder. The operating system releases the lock when the process ends for any reason.
The next process that works at the same place removes folders whose lock nobody holds.
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
# Seconds after its creation in which a folder may not have its lock yet.
GRACE = 10.0
# Number of attempts to make a folder, if another process takes it for abandoned and locks it first.
TRIES = 20
# Errors of a lock that another process holds (Timeout), or on a file system without locks (the others).
_NOT_MINE = (Timeout, OSError, NotImplementedError)
# Function that saves the contents of a folder before its removal, and returns true if the folder must stay.
Rescue = Callable[[Path], bool]


def _nothing(folder: Path) -> bool:
    return False


def temporary_of(name: str) -> re.Pattern[str]:
    """Return the pattern of exactly those names that ``tempfile`` makes with the prefix ``.<name>-``.

    Args:
        name: Name of the file or folder that the temporary one belongs to.
    """
    return re.compile(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}")


@contextmanager
def scratch(parent: Path, name: str, rescue: Rescue = _nothing) -> Iterator[Path]:
    """Make a working folder, hold its lock during the block, and remove the folder when the block ends.

    Args:
        parent: Folder in which the working folder is made; it is created if it does not exist.
        name: Name of the file or folder that the working folder belongs to; see :func:`remove_abandoned`.
        rescue: Function that is called with the folder before its removal, also after an error in the block. If it
            returns true or raises, the folder stays.

    Yields:
        The working folder. On a file system without locks it has no lock, and no process takes it for abandoned.
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
            continue  # The process that holds the lock removes the folder.
        except _NOT_MINE:
            pass
        return folder, lock
    raise OSError(
        f"expected a working folder in {parent} that no other process locks, found none in {TRIES} attempts; "
        "use another place"
    )


def remove_abandoned(parent: Path, name: str, rescue: Rescue = _nothing) -> None:
    """Remove the working folders that killed processes left behind.

    Args:
        parent: Folder that was passed to :func:`scratch`; it may not exist.
        name: Name that was passed to :func:`scratch`.
        rescue: Function that is called with each folder before its removal, while no other process can lock it. If it
            returns true or raises, the folder stays.
    """
    pattern = temporary_of(name)
    for folder in [path for path in parent.glob("*") if pattern.fullmatch(path.name) and _ours(path)]:
        if (folder / LOCK_NAME).is_file():
            _remove(folder, rescue)
        elif _age(folder) >= GRACE:
            # Made by other software, or by a process that was killed before it made its lock: rmdir removes the folder
            # only if it is empty.
            with suppress(OSError):
                folder.rmdir()


def _ours(path: Path) -> bool:
    """Return true if a path is a folder (no link to one) that belongs to the user of this process."""
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
        if os.name == "nt" and not stays:  # Windows cannot remove an open file, so the lock file goes only now.
            (folder / LOCK_NAME).unlink()
        folder.rmdir()


def _discard(folder: Path) -> None:
    # The lock file is removed last. If the process is killed before that, the next one still finds a removable folder.
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
