"""One folder for what the package keeps itself; files in it are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from robust_encoders.errors import HomeError, IntegrityError
from robust_encoders.hub.pins import Pin, read_pins, write_pin
from robust_encoders.utils.home import expanded, home, home_or_none, write_atomically


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", "~/mine")
    assert home() == Path.home() / "mine"


def test_the_folder_lies_in_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBUST_ENCODERS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "robust_encoders"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "robust_encoders"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]


def test_who_may_read_a_file_is_up_to_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that the list of users does not know, without HOME."""

    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ROBUST_ENCODERS_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_keeps_nothing_and_learns_how_to(tiny_encoder: Any, tmp_path: Path) -> None:
    assert home_or_none() is None
    assert read_pins() == {}
    with pytest.raises(HomeError, match="set ROBUST_ENCODERS_HOME to a folder"):
        home()
    with pytest.raises(HomeError, match="expected a home directory for '~/x'"):
        expanded("~/x")
    with pytest.raises(HomeError, match="ROBUST_ENCODERS_HOME"):
        write_pin("a/b", Pin(files={}))


def test_saving_and_loading_need_no_home(tiny_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "file" / "below"))
    tiny_encoder.save_pretrained(tmp_path / "out")
    assert type(tiny_encoder).from_pretrained(tmp_path / "out").content_sha256 == tiny_encoder.content_sha256
    with pytest.raises(HomeError, match=r"expected a folder that can be written at .*below"):
        write_pin("a/b", Pin(files={}))


def test_a_home_that_this_user_may_not_enter_holds_no_pins_for_him(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(IntegrityError, match="cannot read them"):
        read_pins()  # a file of pins that cannot be read, in a folder that can be entered, is a fault
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert read_pins() == {}
    assert "no pins apply: this user may not enter" in caplog.text
