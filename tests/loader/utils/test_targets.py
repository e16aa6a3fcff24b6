"""Places that a command will write to, and the space there: asked before the work."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from robust_encoders.utils.targets import DiskNeed, disk_problems, in_words, place_problems

Usage = namedtuple("Usage", "total used free")


def test_a_place_that_can_be_made_has_no_problem_and_is_not_made(tmp_path: Path) -> None:
    assert place_problems(tmp_path / "a" / "b", name="out") == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (problem,) = place_problems(tmp_path / "file")
    assert "found a file" in problem
    (problem,) = place_problems(tmp_path / "file" / "runs" / "out")
    assert f"the file {tmp_path / 'file'}" in problem


def test_a_place_where_nothing_can_be_written_is_refused() -> None:
    (problem,) = place_problems("/proc/runs")
    assert "choose another place" in problem
    assert "/proc/runs" in problem


def test_a_full_disk_is_found_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "No space left on device" in place_problems(tmp_path)[0]


@pytest.mark.parametrize("name", ["n" * 250, "a\0b"])
def test_a_name_that_is_too_long_under_its_temporary_name_or_holds_a_zero_is_refused(tmp_path: Path, name: str) -> None:
    assert len(place_problems(tmp_path, name=name)) == 1


def test_a_long_folder_above_is_refused_too(tmp_path: Path) -> None:
    assert len(place_problems(tmp_path / ("n" * 300) / "out")) == 1


def test_needs_on_one_disk_are_added_and_each_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**9, 0, 250))
    needs = [DiskNeed(tmp_path / "bank", 200, "trajectories"), DiskNeed(tmp_path / "out", 100, "the artifact")]
    assert disk_problems(needs[:1]) == []
    (problem,) = disk_problems(needs)
    assert "expected 300 B of free space" in problem
    assert "200 B for trajectories + 100 B for the artifact" in problem
    assert "found 250 B" in problem
    assert disk_problems([DiskNeed(tmp_path, 0, "nothing")]) == []


def test_sizes_are_in_words() -> None:
    assert [in_words(size) for size in (0, 999, 1500, 2.5e9, 3e15)] == ["0 B", "999 B", "1.5 kB", "2.5 GB", "3e+03 TB"]
