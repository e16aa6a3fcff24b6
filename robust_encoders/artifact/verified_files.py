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
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import FileRecord
from robust_encoders.utils.home import home, write_atomically

logger = logging.getLogger(__name__)
YOUNGEST_NS = 2_000_000_000


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return true if two states of a path belong to the same, unchanged file.

    Args:
        one: Result of ``os.stat``.
        other: Result of ``os.stat`` at another time.
    """
    return _state(one) == _state(other)


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
    except (OSError, ValueError, RecursionError):
        return None
    return state if noted == _facts(path, state, record) else None


def remember(path: Path, record: FileRecord, looked_at: os.stat_result) -> None:
    """Note that a file matches ``record``, unless it was changed in the last two seconds or since ``looked_at``.

    Args:
        path: Path of the file.
        record: Size and hashes that the file was verified against.
        looked_at: State of the file before it was read.
    """
    newest = max(looked_at.st_mtime_ns, looked_at.st_ctime_ns)
    if not same_file(os.stat(path), looked_at) or time.time_ns() - newest < YOUNGEST_NS:
        return
    facts = _facts(path, looked_at, record)
    try:
        write_atomically(_note_of(path), json.dumps(facts).encode())
    except OSError as error:
        logger.debug("cannot note that %s was verified: %s", path, error)


def _note_of(path: Path) -> Path:
    return home() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"


def _facts(path: Path, state: os.stat_result, record: FileRecord) -> dict[str, Any]:
    return {"path": str(path.resolve()), "expected": vars(record), **_state(state)}


def _state(state: os.stat_result) -> dict[str, int]:
    return {
        "device": state.st_dev,
        "inode": state.st_ino,
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
    }
