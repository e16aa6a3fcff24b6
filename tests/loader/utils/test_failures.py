"""What the operating system refuses, in words with a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from robust_encoders.cli import pipelines
from robust_encoders.cli.main import main
from robust_encoders.utils.failures import failure_in_words


def refusal(code: int, path: str | None = "/a/file") -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "there is no space left on the disk of /a/file; free some, or choose another folder"),
        (errno.EDQUOT, "there is no space left"),
        (errno.EROFS, "expected permission to use /a/file, found none: the disk is read-only; choose another folder"),
        (errno.EACCES, "this user may not"),
        (errno.EPERM, "this user may not"),
        (errno.ENOTDIR, "goes through a file"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_each_refusal_has_words_and_a_way_on(code: int, words: str) -> None:
    assert words in failure_in_words(refusal(code))
    assert failure_in_words(refusal(code, None))


def test_the_setting_that_chose_the_folder_is_named(own_home: Path) -> None:
    own = failure_in_words(refusal(errno.EROFS, str(own_home / "pins.json")))
    assert own.endswith("set ROBUST_ENCODERS_HOME to a folder that you can write")
    hub = failure_in_words(refusal(errno.ENOSPC, f"{constants.HF_HUB_CACHE}/models--a--b/blobs/c"))
    assert hub.endswith("set HF_HUB_CACHE to a folder that you can write")


def test_a_rust_library_and_a_wrapped_error_are_understood() -> None:
    rust = RuntimeError("I/O error: No space left on device (os error 28)")
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = refusal(errno.ENOSPC)
    assert all("no space left" in failure_in_words(error) for error in (rust, wrapped))


def test_other_errors_have_no_words() -> None:
    assert failure_in_words(ValueError("x")) == ""
    assert failure_in_words(refusal(errno.ENOENT)) == ""
    assert failure_in_words(ConnectionResetError("x")) == ""
    assert "TMPDIR" in failure_in_words(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in []"))


def test_any_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: object) -> int:
        raise refusal(errno.ENOSPC, "/a/checkpoint")

    monkeypatch.setattr(pipelines, "load_pipeline", full)
    assert main(["check", "shapes/circle", "shapes"]) == 1
    assert capsys.readouterr().err.endswith(
        "robust-encoders: there is no space left on the disk of /a/checkpoint; free some, or choose another folder\n"
    )
    monkeypatch.setenv("ROBUST_ENCODERS_DEBUG", "1")
    with pytest.raises(OSError, match="No space left"):
        main(["check", "shapes/circle", "shapes"])
