"""The folder of an artifact, checked before the work that makes the artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_encoders import NotReadyError
from robust_encoders.artifact.target import require_target, target_problems


def test_new_and_empty_folders_and_those_of_artifacts_are_fit(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "robust_encoder.json").write_text("{}")
    for name in ("empty", "old", "new", "deep/er/new"):
        assert target_problems(tmp_path / name) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "old"]


def test_another_folder_a_file_and_the_working_directory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place, said in (
        (tmp_path / "taken", "found other files"),
        (tmp_path / "file", "found a file"),
        (tmp_path / "file" / "out", "found a file"),
        (Path(), "works in"),
        (Path("/proc/out"), "can be written"),
        (tmp_path / "\0", "choose another"),
        (tmp_path / ("n" * 255), "choose another"),
    ):
        assert said in " ".join(target_problems(place)), place
        with pytest.raises(NotReadyError):
            require_target(place)


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    assert len(target_problems(tmp_path / "link" / "out")) >= 1
