"""``robust-encoders results --csv``: a file or stdout, written whole or not at all."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused

from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.tidy_csv import COLUMNS


@pytest.fixture
def found(tmp_path: Path) -> list[str]:
    """Two finished evaluations of one concept."""
    for name in ("esd", "uce"):
        result = replace(rate("pre_asr", [True, False, False, False]), prompt_set="circle/name")
        Evaluation(name, "circle", (result,)).write(tmp_path / name / "results.json")
    return [str(tmp_path / name) for name in ("esd", "uce")]


def test_the_file_holds_every_number_and_the_tables_are_printed_as_before(
    found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "all.csv"
    assert main(["results", *found]) == 0
    tables = capsys.readouterr().out
    assert main(["results", *found, "--csv", str(out)]) == 0
    assert capsys.readouterr().out == tables
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["encoder"], row["value"]) for row in rows] == [
        (found[0], "ESD", "0.25"), (found[1], "UCE", "0.25")
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["all.csv"]


def test_a_dash_prints_the_csv_alone(found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", *found, "--csv", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 3
    main(["results", *found, "--csv", str(tmp_path / "all.csv")])
    assert (tmp_path / "all.csv").read_text(encoding="utf-8").splitlines() == lines


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(
    found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "found a folder" in refused(capsys, 2, "results", *found, "--csv", str(tmp_path))
    (tmp_path / "file").write_text("x")
    assert "cannot write" in refused(capsys, 2, "results", *found, "--csv", str(tmp_path / "file" / "all.csv"))
    old = tmp_path / "all.csv"
    old.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in refused(capsys, 2, "results", *found, "--csv", str(old))
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "esd", "file", "uce"]


def test_nothing_is_written_where_one_of_several_folders_has_no_numbers(
    found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.csv"
    assert "none" in refused(capsys, 2, "results", *found, str(tmp_path / "none"), "--csv", str(out))
    (tmp_path / "uce" / "results.json").write_text("{")
    assert "expected the JSON" in refused(capsys, 2, "results", *found, "--csv", str(out))
    assert not out.exists()
