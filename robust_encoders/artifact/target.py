"""The folder that an artifact is saved to: what must be true of it, checked before any work and again at the end."""

from __future__ import annotations

import os
from pathlib import Path

from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.errors import NotReadyError
from robust_encoders.utils.targets import place_problems


def target_problems(directory: str | Path) -> list[str]:
    """Return the reasons why an artifact cannot be saved to a folder; the folder stays unchanged.

    Args:
        directory: Target folder; it need not exist, nor its parents.
    """
    given = Path(directory)
    try:
        target = given.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        return [f"expected a folder that can be made, found {str(directory)!r}: {error}; choose another place"]
    # A temporary folder beside the target is moved into its place, so the parent must be writable.
    problems = place_problems(target.parent, name=target.name)
    for check in (require_movable, require_free):
        try:
            check(target)
        except FileExistsError as error:
            problems.append(str(error))
        except OSError as error:
            problems += [] if problems else [f"expected a folder that can be read at {target}, found {error}"]
    return problems


def require_target(directory: str | Path) -> None:
    """Check that an artifact can be saved to a folder, before the work that makes it.

    Args:
        directory: Target folder; it need not exist, nor its parents.

    Raises:
        NotReadyError: If it cannot; the message lists all reasons.
    """
    if problems := target_problems(directory):
        raise NotReadyError.of(problems)


def require_movable(target: Path) -> None:
    """Check that a folder can be replaced.

    Raises:
        FileExistsError: If the folder contains the working directory of this process, or is a mount point.
    """
    if not target.is_dir():
        return
    reason = "a file system is mounted there" if os.path.ismount(target) else ""
    if Path.cwd().is_relative_to(target):
        reason = f"this process works in {Path.cwd()}"
    if reason:
        raise FileExistsError(
            f"expected a folder that can be replaced at {target}, found that {reason}; save to a subfolder of it, "
            f"{target / 'NAME'} for example"
        )


def require_free(target: Path) -> None:
    """Check that a folder is new or empty, or holds an artifact.

    Raises:
        FileExistsError: If there is a file, or a folder with other files.
    """
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"expected a folder or nothing at {target}, found a file; choose another place")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).is_file():
        raise FileExistsError(
            f"expected an empty folder or an artifact at {target}, found other files; choose another folder"
        )
