"""The packages are fetched by the clients of their registries, and their hashes are checked."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from tiny_emoji import write_npm, write_sources, write_wheel

from robust_encoders.cli.main import main
from robust_encoders.errors import DownloadError, IntegrityError
from robust_encoders.training.worlds.emoji import fetch as fetching
from robust_encoders.training.worlds.emoji.fetch import fetch
from robust_encoders.training.worlds.emoji.packages import SOURCES, read_json, read_member, require_packages
from robust_encoders.training.worlds.emoji.vocabulary import STYLE_NAMES


def npm_that_copies(folder: Path, registry: Path) -> Path:
    """Write a program ``npm`` whose ``pack`` copies a file of a folder, and return its own folder."""
    folder.mkdir()
    program = folder / "npm"
    # npm pack --silent --pack-destination FOLDER NAME@VERSION
    program.write_text(
        f'#!/bin/sh\n[ "$1" = pack ] || exit 2\nname=$(echo "$5" | tr "@" "-")\n'
        f'cp "{registry}/$name.tgz" "$4/" || {{ echo "404 $5" >&2; exit 1; }}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that npm and pip take packages from."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{npm_that_copies(tmp_path / 'bin', folder)}:/usr/bin:/bin")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_npm_and_pip_fetch_what_is_missing(registry: Path, tmp_path: Path) -> None:
    packages = (write_npm(registry, "words", {"a.json": {"b": 1}}), write_wheel(registry))
    out = tmp_path / "out"
    fetch(out, packages)
    assert read_json(out, packages[0], "a.json") == {"b": 1}
    assert read_member(out, packages[1], "clip_tiny-1.0.0.dist-info/LICENSE") == b"MIT by C"


def test_whole_files_are_kept_and_broken_ones_fetched_again(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_npm(registry, "words", {"a.json": {}})
    fetch(tmp_path, (package,))
    (tmp_path / package.file).write_bytes(b"half")
    fetch(tmp_path, (package,))
    monkeypatch.setattr(fetching, "_run", lambda command: pytest.fail(f"ran {command}"))
    fetch(tmp_path, (package,))


def test_the_command_that_the_error_names_fetches(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, folder = (write_npm(registry, "words", {"a.json": {}}),), tmp_path / "sources"
    with pytest.raises(IntegrityError, match="fetch them by `robust-encoders emoji fetch --out") as told:
        require_packages(folder, packages)
    command = re.search(r"`robust-encoders ([^`]+)`", str(told.value))
    assert command is not None
    monkeypatch.setattr(fetching, "fetch", lambda out: fetch(out, packages))
    assert main(command[1].split()) == 0
    require_packages(folder, packages)


def test_a_registry_with_another_file_is_refused(registry: Path, tmp_path: Path) -> None:
    package = write_npm(registry, "words", {"a.json": {}})
    write_npm(registry, "words", {"a.json": {"changed": 1}})
    with pytest.raises(IntegrityError, match=r"found none with the right hash for words-1\.0\.0\.tgz"):
        fetch(tmp_path / "out", (package,))


def test_a_client_that_fails_is_quoted(registry: Path, tmp_path: Path) -> None:
    package = write_npm(registry, "words", {"a.json": {}})
    (registry / package.file).unlink()
    with pytest.raises(DownloadError, match=r"to succeed, found: .*404 words@1\.0\.0"):
        fetch(tmp_path / "out", (package,))


def test_a_machine_without_npm_is_told(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match=r"expected npm for words@1\.0\.0, found none; install Node\.js"):
        fetch(tmp_path / "out", (write_npm(registry, "words", {}),))


def test_members_that_are_missing_are_key_errors(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    for package in (sources.emojilib, sources.clip):
        with pytest.raises(KeyError):
            read_member(tmp_path, package, "nowhere")


def test_the_pinned_packages_are_exact() -> None:
    assert tuple(SOURCES.icon_sets) == STYLE_NAMES
    for package in SOURCES.packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package.version), package
        assert re.fullmatch(r"sha512-[\w+/]{86}==|sha256-[\w+/]{43}=", package.integrity), package
        assert package.licence in ("Apache-2.0", "CC-BY-4.0", "MIT")
    assert SOURCES.icon_sets["noto"].file == "iconify-json-noto-1.2.9.tgz"
