"""Notes on files that were already verified, so that later loads need not hash hundreds of megabytes again.

A file is recognised by its path, inode, size, modification and change times, and by the size and hashes it was
verified against. A file that was changed within the last two seconds is not remembered: a second change might not
show, because the clock of a file system can be coarse.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import FileRecord
from robust_encoders.artifact.owned_file import same_file, state_of
from robust_encoders.errors import HomeError
from robust_encoders.utils.home import home, write_atomically

logger = logging.getLogger(__name__)
YOUNGEST_NS = 2_000_000_000
# Windows keeps the time of creation instead. Because the time of modification can be set back, a change might not show.
HAS_CHANGE_TIME = os.name != "nt"


def settle(path: Path) -> None:
    """Write what other programs changed in a mapped file to disk, so that their next change shows in its times.

    A program that maps a file can change a page again and again. Only the first change after the page was written to
    disk sets the times of the file. In a file system that lies in memory, such as tmpfs, nothing is written to disk, so
    there this function has no effect.

    Args:
        path: Path of the file.
    """
    with suppress(OSError), path.open("rb") as file:  # some systems refuse this for a file that is open for reading
        if not _is_young(os.fstat(file.fileno())):  # a young file is not remembered, and may take long to write
            os.fsync(file.fileno())


def remembered(path: Path, record: FileRecord) -> os.stat_result | None:
    """Return the state of a file if an earlier load verified it in that state; otherwise None.

    Args:
        path: Path of the file.
        record: Size and hashes that the file was verified against, with finite values.

    Returns:
        State of the file; None if it was not verified, was changed since, or does not exist.
    """
    try:
        noted, state = json.loads(_note_of(path).read_bytes()), os.stat(path)
    except (HomeError, OSError, ValueError, RecursionError):
        return None
    return state if noted == _facts(path, state, record) else None


def remember(path: Path, record: FileRecord, looked_at: os.stat_result) -> None:
    """Note that a file matches ``record``, unless it was changed in the last two seconds or since ``looked_at``.

    Args:
        path: Path of the file.
        record: Size and hashes that the file was verified against.
        looked_at: State of the file while it was read.
    """
    if not HAS_CHANGE_TIME or _is_young(looked_at) or not same_file(os.stat(path), looked_at):
        return
    facts = _facts(path, looked_at, record)
    try:
        write_atomically(_note_of(path), json.dumps(facts).encode())
    except (HomeError, OSError) as error:
        logger.debug("cannot note that %s was verified: %s", path, error)


def _is_young(state: os.stat_result) -> bool:
    return time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) < YOUNGEST_NS


def _note_of(path: Path) -> Path:
    return home() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"


def _facts(path: Path, state: os.stat_result, record: FileRecord) -> dict[str, Any]:
    return {"path": str(path.resolve()), "expected": vars(record), **state_of(state)}
