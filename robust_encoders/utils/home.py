"""The folder in which this package keeps what it made or noted itself: converted encoders, pins, verified files."""

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
    """Return ``$ROBUST_ENCODERS_HOME``, by default ``robust_encoders`` in the user's cache folder; it may not exist."""
    if chosen := os.environ.get("ROBUST_ENCODERS_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(cache or "~/.cache").expanduser().absolute() / "robust_encoders"


def remove_aged(folder: Path, pattern: re.Pattern[str], age: float) -> None:
    """Remove files that nobody has written to for so long that nobody will.

    Args:
        folder: Folder to look into; it may not exist.
        pattern: Pattern of their whole names.
        age: Age in seconds.
    """
    for path in folder.glob("*"):
        # Somebody else may do the same at the same time.
        with suppress(OSError):
            if pattern.fullmatch(path.name) and time.time() - path.lstat().st_mtime > age:
                path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time do what it does to ``path``; the others wait.

    Args:
        path: A file or folder, which need not exist; the lock lies beside it.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file aside and move it into place: whoever reads it sees the old one or the new one, never half of it.

    What processes that were killed meanwhile left beside it is removed an hour later.

    Args:
        path: Path of the file; its folder is made if need be.
        data: All of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_aged(path.parent, temporary_of(path.name), HOUR)
    # Not by tempfile, whose files are their owner's alone: who may read this one is up to the umask, as for any file.
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
