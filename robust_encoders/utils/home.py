"""The home folder of this package, which holds converted encoders, pins and notes on verified files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from robust_encoders.utils.atomic_folders import temporary_of

HOUR = 3600.0


def home() -> Path:
    """Return ``$ROBUST_ENCODERS_HOME``, or else ``robust_encoders`` in the user's cache folder; it may not exist."""
    if chosen := os.environ.get("ROBUST_ENCODERS_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(cache or "~/.cache").expanduser().absolute() / "robust_encoders"


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
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


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
