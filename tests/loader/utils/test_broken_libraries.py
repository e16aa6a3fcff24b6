"""Libraries that fail while they are imported are named, and nothing else is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from robust_encoders.errors import BrokenLibraryError
from robust_encoders.utils.broken_libraries import broken_libraries_named, broken_library

FAULTS = ["raise RuntimeError('no such operator')", "raise OSError('no such file')", "None.member", "1 / 0"]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a library whose inner module fails at import."""
    name = f"broken_{abs(hash(request.param))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"from {name} import inner\n")
    (tmp_path / name / "inner.py").write_text(f"{request.param}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_a_library_that_fails_at_import_is_named(broken: str) -> None:
    words = rf"expected a {broken} that can be imported.*pip uninstall {broken}"
    with pytest.raises(BrokenLibraryError, match=words), broken_libraries_named():
        importlib.import_module(broken)


@pytest.mark.parametrize("broken", FAULTS[:1], indirect=True)
def test_it_is_found_behind_an_error_that_hides_it(broken: str) -> None:
    def lazily() -> None:
        try:
            importlib.import_module(broken)
        except Exception as error:
            raise RuntimeError("Failed to import a model") from error

    with pytest.raises(BrokenLibraryError, match="no such operator"), broken_libraries_named():
        lazily()


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), broken_libraries_named():
        _ = 1 / 0
    with pytest.raises(ModuleNotFoundError), broken_libraries_named():
        importlib.import_module("no_such_library")
    assert broken_library(ValueError("never raised")) == ""
