"""Folders that a command will write to: whether they can be made and written, before the work begins."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# A temporary name has a point before the name, and a dash and eight characters after it.
_LONGER = ".-12345678"
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run will write.

    Args:
        place: Folder that they are written to; it need not exist.
        size: Number of bytes.
        what: Description of the files, for example "trajectories".
    """

    place: Path
    size: int
    what: str


def place_problems(folder: str | Path, *, name: str = "") -> list[str]:
    """Return the reasons why files cannot be written to a folder; the folder is not made.

    Args:
        folder: Folder; it need not exist, nor its parents.
        name: Name of a file or folder that will be made in it, also under a temporary name.
    """
    try:
        place = Path(folder).expanduser().absolute()
        there = nearest(place)
        if not there.is_dir():
            found = "a file" if there == place else f"the file {there}"
            return [f"expected a folder that can be made at {place}, found {found}; choose another place"]
        # A name that is too long, or holds a zero byte, raises an error here, as it would at the end.
        for part in (*place.parts[1:], name and f"{name}{_LONGER}"):
            with suppress(FileNotFoundError):
                os.lstat(there / part)
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = str(Path(folder) / name)
        return [f"expected a folder that can be written at {shown[:200]!r}, found: {reason}; choose another place"]
    return []


def nearest(path: Path) -> Path:
    """Return the path itself if it exists, or its nearest parent that does."""
    return next((one for one in (path, *path.parents) if one.exists()), Path(path.anchor or "."))


def disk_problems(needs: Iterable[DiskNeed]) -> list[str]:
    """Return one problem for each disk that is too small for what will be written to it.

    Args:
        needs: Everything that the run will write.
    """
    by_disk: dict[int, list[DiskNeed]] = {}
    for need in needs:
        if need.size > 0:
            by_disk.setdefault(os.stat(nearest(need.place.expanduser().absolute())).st_dev, []).append(need)
    problems = []
    for listed in by_disk.values():
        place = nearest(listed[0].place.expanduser().absolute())
        free, total = shutil.disk_usage(place).free, sum(need.size for need in listed)
        if total > free:
            parts = " + ".join(f"{in_words(need.size)} for {need.what}" for need in listed)
            problems.append(
                f"expected {in_words(total)} of free space on the disk of {listed[0].place} ({parts}), found "
                f"{in_words(free)}; free some, or choose a place on another disk"
            )
    return problems


def in_words(size: float) -> str:
    """Return a number of bytes in words, for example ``1.5 GB``; 1 GB is 10^9 bytes."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
