"""Versions of libraries, with and without the metadata of a package manager."""

from __future__ import annotations

from importlib import metadata

import diffusers
import pytest

import robust_encoders
from robust_encoders.utils.extras import install_command, names_extra
from robust_encoders.utils.versions import version


def missing(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_the_metadata_count_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2 of {name}")
    assert version("diffusers") == "1.2 of diffusers"


def test_a_clone_has_the_version_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", missing)
    assert version("diffusers") == diffusers.__version__
    assert version("robust-encoders") == robust_encoders.__version__
    monkeypatch.delattr(robust_encoders, "__version__")
    assert version("robust-encoders") == "unknown"  # while the package itself is imported from a clone
    with pytest.raises(ModuleNotFoundError):
        version("no-such-library")


def test_a_clone_names_its_extras_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("distribution", "requires"):
        monkeypatch.setattr(metadata, name, missing)
    assert "in a clone of robust_encoders" in install_command("eval")
    assert not names_extra("eval", "torchmetrics")
