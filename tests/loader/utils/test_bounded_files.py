"""Devices, pipes, folders and endless files are refused before anything is read from them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from robust_encoders.utils.bounded_files import NotReadableError, read_small, regular


def test_a_small_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a\r\n")
    (tmp_path / "link").symlink_to(path)
    assert read_small(path, 3) == read_small(tmp_path / "link") == b"a\r\n"
    assert regular(tmp_path / "link").st_size == 3


def test_a_larger_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**12)  # sparse: it takes no place
    with pytest.raises(NotReadableError, match="has more than 10 bytes"):
        read_small(tmp_path / "a", 10)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "s"))
        kinds = {"/dev/zero": "a device", "pipe": "a named pipe", ".": "a folder", "s": "a socket"}
        for path, words in kinds.items():
            with pytest.raises(NotReadableError, match=f"is {words}, not a regular file"):
                read_small(tmp_path / path)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")
