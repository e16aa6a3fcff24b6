"""Errors of the operating system in words: no space, no permission, a folder that is gone."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from robust_encoders.utils.home import home_or_none

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_CODED = re.compile(r"\(os error (\d+)\)")
_TEMPORARY = "No usable temporary directory"


def failure_in_words(error: BaseException) -> str:
    """Return what the operating system refused, with a remedy.

    Args:
        error: Exception of any library.

    Returns:
        One sentence; empty if the exception does not tell of the user's disk, permissions or working folder.
    """
    found = _system_error(error)
    if found is None:
        return ""
    code, path = found.errno or 0, _path_of(found)
    if _is_without_working_folder():
        return "the working folder no longer exists; change to a folder that exists, then try again"
    if _TEMPORARY in str(found):
        return "expected a folder for temporary files that can be written, found none; set TMPDIR to one"
    if code in _NO_SPACE:
        return f"there is no space left{_at(path)}; free some, or {_elsewhere(path)}"
    if code in _FORBIDDEN:
        why = "the disk is read-only" if code == errno.EROFS else "this user may not"
        return f"expected permission to use {path or 'a file'}, found none: {why}; {_elsewhere(path)}"
    if code == errno.ENOTDIR:
        return f"expected a folder where {path or 'a path'} goes through a file; {_elsewhere(path)}"
    if code in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit with `ulimit -n`, or end other programs"
    return ""


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's error in a chain of causes; Rust's libraries write its number into their text."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if coded := _CODED.search(str(error)):
            return OSError(int(coded[1]), os.strerror(int(coded[1])))
        error = error.__cause__
    return None


def _path_of(error: OSError) -> str:
    name = error.filename2 or error.filename
    return "" if name is None or isinstance(name, int) else os.fsdecode(name)


def _at(path: str) -> str:
    return f" on the disk of {path}" if path else " on the disk"


def _is_without_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _elsewhere(path: str) -> str:
    """Return the way to another folder: the setting that chose this one."""
    from huggingface_hub import constants

    places = {"HF_HOME": constants.HF_HOME, "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    if (own := home_or_none()) is not None:
        places["ROBUST_ENCODERS_HOME"] = str(own)
    inside = [name for name, folder in places.items() if path and Path(path).is_relative_to(folder)]
    return f"set {inside[-1]} to a folder that you can write" if inside else "choose another folder"
