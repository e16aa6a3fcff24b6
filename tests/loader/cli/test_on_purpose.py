"""Errors that this package raised on purpose are told from those that only passed through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robust_encoders.cli import main as command_line
from robust_encoders.cli.main import main
from robust_encoders.cli.on_purpose import on_purpose
from robust_encoders.concepts import Concept
from robust_encoders.utils.console import columns
from robust_encoders.utils.json_fields import short


def raised(run: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as found:  # noqa: PT011 - the kinds differ
        run()
    return found.value


def test_a_raise_statement_of_this_package_is_on_purpose() -> None:
    assert on_purpose(raised(lambda: Concept(name="", kind="object")))


def test_what_python_and_others_raise_is_not() -> None:
    class Odd:
        def __repr__(self) -> str:
            return str(int("x"))

    assert not on_purpose(raised(lambda: int("x")))  # of this test
    assert not on_purpose(raised(lambda: short(Odd())))  # passes through this package
    assert not on_purpose(raised(lambda: columns([("a",), ("a", "b")])))  # a call in this package fails
    assert not on_purpose(ValueError("expected a, found b"))  # raised nowhere


def test_the_command_line_shows_the_one_and_raises_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "_run", lambda arguments: Concept(name="", kind="object"))
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith("robust-encoders: ")
    monkeypatch.setattr(command_line, "_run", lambda arguments: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["list"])
