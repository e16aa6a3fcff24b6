"""What other programs may do to a file that was loaded, or while it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robust_encoders.artifact import owned_file


def overwritten(path: Path) -> None:
    """Write other values into the same file, of the same size and with the same time of modification."""
    state, data = path.stat(), path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(255 - byte for byte in data[start:]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def cut_off(path: Path) -> None:
    os.truncate(path, 100)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def deleted(path: Path) -> None:
    path.unlink()


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Let another program act once between the header and the tensors of the next file that is read."""
    real, todo = owned_file._layout, [act]

    def layout(header: bytes, size: int, path: Path) -> Any:
        found = real(header, size, path)
        for action in todo:
            action(path)
        todo.clear()
        return found

    monkeypatch.setattr(owned_file, "_layout", layout)
