"""Folders to work in: held while they are used, removed when nobody holds them, and never those of others."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from robust_encoders import RobustEncoder
from robust_encoders.hub import download as hub
from robust_encoders.utils.atomic_folders import GRACE, LOCK_NAME, remove_abandoned, scratch
from robust_encoders.utils.home import HOUR, write_atomically

OLD = time.time() - 48 * HOUR


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (OLD, OLD))


def abandoned(parent: Path, name: str, *inside: str) -> Path:
    """Make what a killed process leaves."""
    folder = parent / name
    folder.mkdir()
    for file in inside:
        (folder / file).write_bytes(b"")
    make_old(folder)
    return folder


def test_a_scratch_folder_goes_with_its_block(tmp_path: Path) -> None:
    with scratch(tmp_path / "deep", "a") as folder:
        (folder / "file").write_bytes(b"")
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_is_held_stays_and_what_is_not_goes(tmp_path: Path) -> None:
    left = abandoned(tmp_path, ".a-12345678", LOCK_NAME, "file")
    with scratch(tmp_path, "a") as folder:
        make_old(folder)
        remove_abandoned(tmp_path, "a")
        assert folder.is_dir()
    assert not left.exists()


def test_the_lock_is_the_last_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[set[str]] = []
    with scratch(tmp_path, "a") as folder:
        (folder / "b" / "c").mkdir(parents=True)
        (folder / "b" / "c" / "file").write_bytes(b"")
        (folder / "link").symlink_to(tmp_path / "nowhere")
        real = os.rmdir

        def spy(*arguments: Any, **options: Any) -> None:
            left.append(set(os.listdir(folder)))
            real(*arguments, **options)

        monkeypatch.setattr(os, "rmdir", spy)
    assert left[0] >= {"b", LOCK_NAME}
    assert left[-1] == set()
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_just_now_may_not_be_held_yet(tmp_path: Path) -> None:
    left = abandoned(tmp_path, ".a-12345678")
    os.utime(left, (time.time() - GRACE / 2,) * 2)
    remove_abandoned(tmp_path, "a")
    assert left.is_dir()


def test_what_was_held_and_is_no_more_goes_at_once(tmp_path: Path) -> None:
    left = abandoned(tmp_path, ".a-12345678", LOCK_NAME, "file")
    os.utime(left)
    remove_abandoned(tmp_path, "a")
    assert not left.exists()


def test_a_folder_that_is_taken_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = FileLock.acquire
    taken: list[Any] = []

    def late(lock: FileLock, **options: Any) -> Any:
        if not taken:
            taken.append(FileLock(lock.lock_file, is_singleton=False))
            real(taken[0], timeout=0)
        return real(lock, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    with scratch(tmp_path, "a") as folder:
        assert folder != Path(taken[0].lock_file).parent
        taken[0].release()
        remove_abandoned(tmp_path, "a")
        assert list(tmp_path.iterdir()) == [folder]


def test_what_could_not_be_rescued_stays(tmp_path: Path) -> None:
    left = abandoned(tmp_path, ".a-12345678", LOCK_NAME, "file")
    remove_abandoned(tmp_path, "a", lambda folder: True)
    assert (left / "file").is_file()

    def fail(folder: Path) -> bool:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        remove_abandoned(tmp_path, "a", fail)
    assert (left / "file").is_file()
    remove_abandoned(tmp_path, "a")
    assert not left.exists(), "it was let go of"


def test_a_link_by_such_a_name_is_left_alone(tmp_path: Path) -> None:
    theirs = abandoned(tmp_path, "theirs", LOCK_NAME, "thesis.tex")
    link = tmp_path / ".a-12345678"
    link.symlink_to(theirs)
    os.utime(link, (OLD, OLD), follow_symlinks=False)
    remove_abandoned(tmp_path, "a")
    assert link.is_symlink()
    assert sorted(path.name for path in theirs.iterdir()) == [LOCK_NAME, "thesis.tex"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners of files")
def test_the_folder_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = abandoned(tmp_path, ".a-12345678", LOCK_NAME)
    rescued: list[Path] = []
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)

    def rescue(folder: Path) -> bool:
        rescued.append(folder)
        return False

    remove_abandoned(tmp_path, "a", rescue)
    assert theirs.is_dir()
    assert rescued == []


@pytest.mark.parametrize("name", [".a-1234567", ".a-b-123456", ".ab-12345678", "a-12345678", ".a-ABCDEFGH"])
def test_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    left = abandoned(tmp_path, name, LOCK_NAME)
    remove_abandoned(tmp_path, "a")
    assert left.is_dir()


def test_a_folder_that_was_never_held_is_removed_only_if_it_is_empty(tmp_path: Path) -> None:
    empty, full = abandoned(tmp_path, ".a-12345678"), abandoned(tmp_path, ".a-87654321", "thesis.tex")
    remove_abandoned(tmp_path, "a")
    assert (empty.exists(), full.is_dir()) == (False, True)


def test_a_file_system_without_locks_is_worked_on_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_encoder: RobustEncoder
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no locks here")

    left = abandoned(tmp_path, ".artifact-12345678", LOCK_NAME)
    monkeypatch.setattr(FileLock, "acquire", refuse)
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert RobustEncoder.from_pretrained(tmp_path / "artifact").content_sha256 == tiny_encoder.content_sha256
    assert left.is_dir(), "it cannot be told whether somebody works in it"


def test_the_rescued_folder_is_held_meanwhile(tmp_path: Path) -> None:
    abandoned(tmp_path, ".a-12345678", LOCK_NAME)
    held = []

    def rescue(folder: Path) -> bool:
        with pytest.raises(Timeout):
            FileLock(folder / LOCK_NAME).acquire(timeout=0)
        held.append(folder)
        return False

    remove_abandoned(tmp_path, "a", rescue)
    assert len(held) == 1


@pytest.mark.parametrize("moved", [True, False])
def test_only_a_save_that_was_cut_off_is_put_back(tmp_path: Path, tiny_encoder: RobustEncoder, moved: bool) -> None:
    target = tmp_path / "artifact"
    tiny_encoder.save_pretrained(target)
    (target / "notes.txt").write_text("mine")
    aside = abandoned(tmp_path, ".artifact-12345678", LOCK_NAME)
    if not moved:
        shutil.copytree(target, aside / "new")
    target.rename(aside / "old")
    make_old(aside)
    tiny_encoder.save_pretrained(target)
    # With the new folder moved, the save was complete, and it was the user who removed it since.
    assert (target / "notes.txt").exists() == (not moved)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def cut_off(tmp_path: Path, tiny_encoder: RobustEncoder) -> Path:
    """Make what a save leaves that was killed between its two moves, just now."""
    target, aside = tmp_path / "artifact", tmp_path / ".artifact-12345678"
    tiny_encoder.save_pretrained(target)
    (target / "notes.txt").write_text("mine")
    aside.mkdir()
    (aside / LOCK_NAME).touch()
    shutil.copytree(target, aside / "new")
    target.rename(aside / "old")
    return aside


def test_a_save_that_is_tried_again_at_once_keeps_what_lay_beside(
    cut_off: Path, tmp_path: Path, tiny_encoder: RobustEncoder
) -> None:
    for _ in range(2):
        tiny_encoder.save_pretrained(tmp_path / "artifact")
        assert (tmp_path / "artifact" / "notes.txt").read_text() == "mine"
        assert not cut_off.exists()


def test_what_a_new_artifact_lacks_is_put_back_into_it(
    cut_off: Path, tmp_path: Path, tiny_encoder: RobustEncoder
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "artifact")
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "notes.txt").read_text() == "mine"
    assert not cut_off.exists()


def test_what_cannot_be_put_back_stays_where_it_is(
    cut_off: Path, tmp_path: Path, tiny_encoder: RobustEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "artifact")
    (tmp_path / "artifact" / "notes.txt").write_text("other notes")
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "notes.txt").read_text() == "other notes"
    assert (cut_off / "old" / "notes.txt").read_text() == "mine"
    assert f"notes.txt in {cut_off / 'old'}" in caplog.text


def test_files_of_killed_writers_go_after_an_hour(tmp_path: Path) -> None:
    for name in (".pins-12345678", ".pins-87654321", ".pins-1", "pins"):
        (tmp_path / name).write_bytes(b"")
        make_old(tmp_path / name)
    os.utime(tmp_path / ".pins-87654321", (time.time() - HOUR / 2,) * 2)
    write_atomically(tmp_path / "pins", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pins-1", ".pins-87654321", "pins"]


def test_what_the_hubs_client_cannot_go_on_with_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    for name in ("ab.12345678.incomplete", "cd.87654321.incomplete", "ef.incomplete", "0a"):
        (repo / "blobs" / name).write_bytes(b"")
        make_old(repo / "blobs" / name)
    os.utime(repo / "blobs" / "cd.87654321.incomplete", (time.time() - HOUR,) * 2)
    folder = repo / "snapshots" / ("1" * 40)
    monkeypatch.setattr(hub, "fetch_file", lambda *_, **__: folder / "file")
    assert hub.fetch_artifact("org/name", "file", lambda _: (), subfolder="", options=hub.HubOptions()) == folder
    assert {path.name for path in (repo / "blobs").iterdir()} == {"cd.87654321.incomplete", "ef.incomplete", "0a"}
