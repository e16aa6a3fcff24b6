"""Files and folders that an export writes: completely or not at all, and never over something of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robust_encoders.artifact.provenance import METADATA_KEY
from robust_encoders.artifact.target import require_movable
from robust_encoders.artifact.tensor_files import metadata_of
from robust_encoders.errors import IntegrityError, NotReadyError
from robust_encoders.utils.atomic_folders import remove_abandoned, scratch
from robust_encoders.utils.targets import DiskNeed, disk_problems, place_problems

SUFFIX = ".safetensors"


def require_place(target: Path, size: int, *, force: bool, source: Path | None = None) -> None:
    """Check that a file or folder can be written, before the work that makes it.

    Args:
        target: Path of the file or folder; its name has the suffix ``.safetensors`` if it is a file.
        size: Size in bytes.
        force: True to replace an earlier export.
        source: Checkpoint or pipeline that is read meanwhile; None for none.

    Raises:
        NotReadyError: If the place cannot be written, or the disk is too small.
        FileExistsError: If there is something already and ``force`` is false, or something that is no export.
    """
    problems = place_problems(target.parent, name=target.name)
    if problems := problems or disk_problems([DiskNeed(target.parent, size, target.name)]):
        raise NotReadyError.of(problems)
    if source is not None and _overlap(target.resolve(), source.resolve()):
        raise FileExistsError(f"expected a place outside of the base {source}, found {target}; choose another folder")
    if not os.path.lexists(target):
        return
    require_movable(target)
    if not force:
        raise FileExistsError(
            f"expected nothing at {target}, found a file or folder; choose another folder, or pass --force to replace "
            "an earlier export"
        )
    if not _is_export(target):
        raise FileExistsError(
            f"expected an earlier export at {target}, found something else, which is not replaced; choose another "
            "folder"
        )


def _is_export(target: Path) -> bool:
    """Return true if a file, or a file of weights in a folder, says that it comes from this package."""
    files = list(target.rglob("*.safetensors")) if target.is_dir() else [target]
    if target.is_dir() != (target.suffix != SUFFIX):
        return False
    try:
        return any(METADATA_KEY in metadata_of(file) for file in files)
    except (IntegrityError, OSError):
        return False


def _overlap(target: Path, source: Path) -> bool:
    return target == source or source in target.parents or target in source.parents


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Yield a path beside a target and move what the block wrote there into its place.

    If the block fails, or the process is killed in it, the target stays as it was.

    Args:
        target: Path of a file or folder; what is there is replaced.

    Yields:
        Path of the file or folder to write.
    """

    def rescue(aside: Path) -> bool:
        if (aside / "old").exists() and not os.path.lexists(target):
            os.replace(aside / "old", target)
        return False

    remove_abandoned(target.parent, target.name, rescue)
    with scratch(target.parent, target.name, rescue) as aside:
        yield aside / "new"
        if target.is_dir():
            os.replace(target, aside / "old")
        os.replace(aside / "new", target)
