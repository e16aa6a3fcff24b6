"""The home folder of this package, which holds converted encoders, pins and notes on verified files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from robust_encoders.errors import HomeError
from robust_encoders.utils.atomic_folders import temporary_of

HOUR = 3600.0


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home directory.

    Args:
        path: Path that a user wrote.

    Raises:
        HomeError: If the path begins with ``~``, and the home directory is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HomeError(
            f"expected a home directory for {str(path)!r}, found none: neither HOME nor the list of users names one; "
            "pass the whole path, or set HOME"
        ) from error


def expanded_or_none(path: str | Path | None) -> Path | None:
    """Return :func:`expanded` of a path; None for None.

    Args:
        path: Path that a user wrote; None stands for no path.

    Raises:
        HomeError: If the path begins with ``~``, and the home directory is not known.
    """
    return None if path is None else expanded(path)


def home() -> Path:
    """Return ``$ROBUST_ENCODERS_HOME``, or else ``robust_encoders`` in the user's cache folder; it may not exist.

    Raises:
        HomeError: If neither that variable nor a cache folder nor a home directory is known.
    """
    if chosen := os.environ.get("ROBUST_ENCODERS_HOME"):
        return expanded(chosen).absolute()
    cache = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return expanded(cache or "~/.cache").absolute() / "robust_encoders"
    except HomeError as error:
        raise HomeError(
            "expected a folder for what this package keeps, found none: this user has no home directory; set "
            "ROBUST_ENCODERS_HOME to a folder that you can write"
        ) from error


def home_or_none() -> Path | None:
    """Return :func:`home`, or None for a user without one, for whom nothing is kept."""
    try:
        return home()
    except HomeError:
        return None


def remove_aged(folder: Path, pattern: re.Pattern[str], age: float) -> None:
    """Remove abandoned files: those that match a pattern and were not changed for a given time.

    Args:
        folder: Folder of the files; it may not exist.
        pattern: Pattern of the files' whole names.
        age: Smallest age, in seconds since the last change.
    """
    for path in folder.glob("*"):
        # Another process may remove the same file at the same time.
        with suppress(OSError):
            if pattern.fullmatch(path.name) and time.time() - path.lstat().st_mtime > age:
                path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` during the block, so that one process at a time changes it; other processes wait.

    Args:
        path: File or folder, which may not exist; the lock file lies beside it.

    Raises:
        HomeError: If the folder of ``path`` cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise HomeError(
            f"expected a folder that can be written at {path.parent}, found none: {error}; set ROBUST_ENCODERS_HOME to "
            "another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file and move it into place, so that readers see the old file or the new one, never a part.

    Temporary files that killed processes left there are removed when they are an hour old.

    Args:
        path: Path of the file; its folder is created if it does not exist.
        data: Whole content of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_aged(path.parent, temporary_of(path.name), HOUR)
    # tempfile is not used here, because only the owner can read its files. This file follows the umask.
    aside = path.with_name(f".{path.name}-{token_hex(4)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
