"""Reading of small files whose size nobody vouches for: a configuration of gigabytes, or a device, is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# Largest size in bytes of a configuration or an index of shards.
MOST_JSON = 2**22
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class NotReadableError(OSError):
    """A path is no regular file, or its file is larger than any such file can sensibly be."""


def regular(path: Path) -> os.stat_result:
    """Return the state of a regular file; a link counts as its target.

    Args:
        path: Path of the file.

    Raises:
        NotReadableError: If the path is a folder, a device, a named pipe or a socket. A device may have no end, and a
            pipe may never deliver a byte.
        OSError: If there is no such file.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        kind = next((words for holds, words in _KINDS if holds(state.st_mode)), "no regular file")
        raise NotReadableError(f"{path} is {kind}, not a regular file")
    return state


def read_small(path: Path, most: int = MOST_JSON) -> bytes:
    """Return the content of a file of at most ``most`` bytes.

    Args:
        path: Path of the file.
        most: Largest size in bytes.

    Raises:
        NotReadableError: If the path is no regular file, or the file is larger.
        OSError: If the file cannot be read.
    """
    regular(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise NotReadableError(f"{path} has more than {most} bytes, which no such file needs")
    return data
