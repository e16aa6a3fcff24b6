"""A file is verified once; whatever could be another file is verified again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from changing_files import meanwhile, overwritten

from robust_encoders import FileRecord, IntegrityError, RobustEncoder
from robust_encoders.artifact import reader, verified_files
from robust_encoders.artifact.verified_files import YOUNGEST_NS, remember, remembered, settle
from robust_encoders.conversion.files import file_record
from robust_encoders.hub.pins import Pin, write_pin
from robust_encoders.utils.home import home

Counted = list[str]
TICK = 0.05  # more than the step of a file system's clock


@pytest.fixture
def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file be as old as if it had been written a minute ago."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60 * 10**9)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"one")
    return tmp_path / "file"


def noted(path: Path) -> FileRecord:
    record = replace(file_record(path), content_sha256="0" * 64)
    remember(path, record, path.stat())
    return record


def test_a_verified_file_is_known_again(file: Path, old_enough: None) -> None:
    assert not remembered(file, file_record(file))
    record = noted(file)
    assert remembered(file, record)
    assert not remembered(file, replace(record, sha256="1" * 64))
    assert not remembered(file, replace(record, content_sha256="1" * 64))


def test_a_young_file_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns)
    monkeypatch.setattr(time, "time_ns", lambda: newest + YOUNGEST_NS - 1)
    assert not remembered(file, noted(file))
    monkeypatch.setattr(time, "time_ns", lambda: newest + YOUNGEST_NS)
    assert remembered(file, noted(file))


def test_a_file_from_the_future_is_not_remembered(file: Path, old_enough: None) -> None:
    os.utime(file, (time.time() + 3600, time.time() + 3600))
    assert not remembered(file, noted(file))


def test_a_file_of_the_same_size_and_time_is_another_one(file: Path, old_enough: None) -> None:
    record, state = noted(file), file.stat()
    time.sleep(TICK)
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not remembered(file, record), "the change time tells"
    other = file.with_name("other")
    other.write_bytes(b"one")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(file)
    assert not remembered(file, record), "the inode tells"


def test_a_file_that_changed_while_it_was_verified_is_not_remembered(file: Path, old_enough: None) -> None:
    before = file.stat()
    time.sleep(TICK)
    file.write_bytes(b"more")
    remember(file, file_record(file), before)
    assert not remembered(file, file_record(file))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5])
def test_a_note_that_cannot_be_understood_is_no_note(file: Path, old_enough: None, text: str) -> None:
    record = noted(file)
    (note,) = (home() / "verified").glob("*.json")
    note.write_text(text)
    assert not remembered(file, record)


def test_a_home_that_cannot_be_written_costs_only_time(
    file: Path, old_enough: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(file / "not a folder"))
    assert not remembered(file, noted(file))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Write down what is verified."""
    done: Counted = []

    def spy(name: str) -> None:
        real = getattr(reader, name)

        def spied(*arguments: Any, **options: Any) -> Any:
            done.append(f"{name}{options or ''}")
            return real(*arguments, **options)

        monkeypatch.setattr(reader, name, spied)

    for name in ("_require_bytes", "_require_contents", "require_fit"):
        spy(name)
    return done


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


ALL = ["_require_bytes", "_require_contents", "require_fit{'finite': False, 'projected': False}"]


def test_the_first_load_verifies_all_and_later_ones_nothing(
    artifact: Path, work: Counted, tiny_encoder: RobustEncoder, old_enough: None
) -> None:
    first = RobustEncoder.from_pretrained(artifact)
    assert work == ALL
    work.clear()
    later = RobustEncoder.from_pretrained(artifact)
    assert work == ["require_fit{'finite': True, 'projected': False}"]
    assert later.content_sha256 == first.content_sha256 == tiny_encoder.content_sha256
    assert all(torch.equal(later.tensors[name], tiny_encoder.tensors[name]) for name in later.tensors)


def test_a_young_artifact_is_verified_every_time(artifact: Path, work: Counted) -> None:
    RobustEncoder.from_pretrained(artifact)
    RobustEncoder.from_pretrained(artifact)
    assert work == ALL * 2


def test_a_pinned_artifact_is_only_hashed(artifact: Path, work: Counted) -> None:
    write_pin(str(artifact.resolve()), Pin(files=RobustEncoder.from_pretrained(artifact).manifest.files))
    work.clear()
    RobustEncoder.from_pretrained(artifact)
    assert work == ["_require_bytes", "require_fit{'finite': True, 'projected': False}"]


def test_a_file_damaged_after_it_was_verified_is_refused(artifact: Path, old_enough: None) -> None:
    RobustEncoder.from_pretrained(artifact)
    path = artifact / "model.safetensors"
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(TICK)
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        RobustEncoder.from_pretrained(artifact)


def put_in_its_place(other: Path) -> Callable[[Path], object]:
    def put(path: Path) -> None:
        aside = path.with_name("aside")
        shutil.copyfile(other, aside)
        aside.replace(path)

    return put


def test_a_file_that_is_replaced_while_it_is_read_is_verified_as_it_was_read(
    artifact: Path, work: Counted, tmp_path: Path, tiny_pipe: Any, make_encoder: Any, old_enough: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A replaced file stays readable where it is open, so the load succeeds; the new file is not remembered."""
    make_encoder(tiny_pipe, seed=7).save_pretrained(tmp_path / "other")
    expected = RobustEncoder.from_pretrained(artifact).content_sha256
    meanwhile(monkeypatch, put_in_its_place(tmp_path / "other" / "model.safetensors"))
    assert RobustEncoder.from_pretrained(artifact).content_sha256 == expected
    with pytest.raises(IntegrityError, match="was changed or cut off"):
        RobustEncoder.from_pretrained(artifact)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_is_overwritten_while_it_is_read_is_refused(
    artifact: Path, work: Counted, old_enough: None, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Of the same size, with the same time of modification, and after the notes were looked up."""
    if known:
        RobustEncoder.from_pretrained(artifact)
    work.clear()
    time.sleep(TICK)
    meanwhile(monkeypatch, overwritten)
    with pytest.raises(IntegrityError, match="was changed or cut off"):
        RobustEncoder.from_pretrained(artifact)
    assert work == ["_require_bytes"]


def test_a_known_file_that_is_replaced_before_it_is_read_is_refused(
    artifact: Path, tmp_path: Path, tiny_pipe: Any, make_encoder: Any, old_enough: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_encoder(tiny_pipe, seed=7).save_pretrained(tmp_path / "other")
    RobustEncoder.from_pretrained(artifact)
    answers: list[os.stat_result | None] = []

    def replaced_meanwhile(path: Path, record: FileRecord) -> os.stat_result | None:
        answers.append(remembered(path, record))
        (tmp_path / "other" / "model.safetensors").replace(path)
        return answers[-1]

    monkeypatch.setattr("robust_encoders.hub.load.remembered", replaced_meanwhile)
    with pytest.raises(IntegrityError, match="was changed or cut off"):
        RobustEncoder.from_pretrained(artifact)
    assert len(answers) == 1
    assert answers[0] is not None


def test_training_an_encoder_never_reaches_the_file(artifact: Path) -> None:
    before = (artifact / "model.safetensors").read_bytes()
    encoder = RobustEncoder.from_pretrained(artifact)
    assert isinstance(encoder, RobustEncoder)
    with torch.no_grad():
        for tensor in encoder.tensors.values():
            tensor.add_(1)
    assert (artifact / "model.safetensors").read_bytes() == before
    with pytest.raises(IntegrityError, match="changed in place"):
        encoder.text_encoder()


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Write down the inodes of files that are written to disk."""
    found: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: found.append(os.fstat(file).st_ino))
    return found


def test_a_file_is_written_to_disk_before_it_is_verified_and_remembered(
    artifact: Path, old_enough: None, flushed: list[int], work: Counted
) -> None:
    """Otherwise a program that has mapped it could change it again without a new time."""
    path = artifact / "model.safetensors"
    RobustEncoder.from_pretrained(artifact)
    assert flushed[0] == path.stat().st_ino
    flushed.clear()
    RobustEncoder.from_pretrained(artifact)
    assert not flushed, "a remembered file was written to disk before"
    settle(path.with_name("missing"))


def test_a_young_file_is_not_written_to_disk(artifact: Path, flushed: list[int]) -> None:
    settle(artifact / "model.safetensors")
    assert not flushed


def test_nothing_is_remembered_where_files_have_no_time_of_change(
    file: Path, old_enough: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "HAS_CHANGE_TIME", False)
    assert not remembered(file, noted(file))
