"""Installed libraries that cannot be imported, for example a torchvision that was built for another torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import TracebackType

from robust_encoders.errors import BrokenLibraryError

_OURS = ("robust_encoders", "__main__", "__mp_main__")


def broken_library(error: BaseException) -> str:
    """Return which library failed while it was imported, with a remedy.

    Libraries such as transformers import whatever is installed. A broken one then raises errors of any type.

    Args:
        error: Exception of any library.

    Returns:
        One sentence; empty if the exception did not come from the import of another library.
    """
    for one in _chain(error):
        name = _importing(one.__traceback__)
        if name and not isinstance(one, ModuleNotFoundError):
            why = " ".join(str(one).split()) or "no message"
            return (
                f"expected a {name}{_version(name)} that can be imported, found one that fails: {type(one).__name__}: "
                f"{why}; install a version of {name} that fits torch{_version('torch')}, or remove it with "
                f"`pip uninstall {name}` if you do not need it"
            )
    return ""


@contextmanager
def broken_libraries_named() -> Iterator[None]:
    """Raise an error in words if the import of another library fails during the block.

    Raises:
        BrokenLibraryError: If an installed library cannot be imported.
    """
    try:
        yield
    except Exception as error:
        if text := broken_library(error):
            raise BrokenLibraryError(text) from error
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all that led to it, the first cause first."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found[::-1]


def _importing(trace: TracebackType | None) -> str:
    """Return the top-level package whose module was running last; empty if none or if it is ours."""
    name = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            name = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        trace = trace.tb_next
    return "" if name in _OURS or name in sys.stdlib_module_names else name


def _version(name: str) -> str:
    try:
        return f" {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return ""
