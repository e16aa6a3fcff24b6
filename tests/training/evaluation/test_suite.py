"""Suite versions: every number has one, and numbers of two versions never stand in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from evaluations import Attacks, write_evaluation
from suite_evaluations import suite_evaluation, write_suite

from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.suite import (
    SUITE_KEY,
    SUITE_VERSION,
    SUITE_VERSIONS,
    by_version,
    of_version,
    version_of,
    versions_of,
)
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.html.page import write_report
from robust_encoders.training.reports.leaderboard import Leaderboard
from robust_encoders.training.reports.matrix import matrix_table, tables
from robust_encoders.training.reports.paired import paired_tables
from robust_encoders.training.reports.results_table import results_table

STEPS: Attacks = {"a": ("T3", [20, None, None, None])}
OTHERS: Attacks = {"a": ("T3", [20, 20, None, None])}


def versioned(evaluation: Evaluation, version: int) -> Evaluation:
    """Return the evaluation with all its numbers under a version."""
    results = (replace(r, settings={**r.settings, SUITE_KEY: version}) for r in evaluation.results)
    return replace(evaluation, results=tuple(results))


def two(tmp_path: Path) -> list[Path]:
    """Write two evaluations of the same prompts, of the first version and of the second."""
    folders = [
        write_evaluation(tmp_path / "old", STEPS, "esd"),
        write_evaluation(tmp_path / "new", OTHERS, "uce"),
    ]
    versioned(Evaluation.read(folders[1]), 2).write(folders[1] / "results.json")
    part = folders[1] / "cells" / "attack-a.json"
    stored = json.loads(part.read_text(encoding="utf-8"))
    for record in stored["value"]["results"]:
        record["settings"][SUITE_KEY] = 2
    part.write_text(json.dumps(stored), encoding="utf-8")
    return folders


def sections(text: str) -> list[tuple[str, str]]:
    """Return title and text below it of each section."""
    return [(title, rest) for title, _, rest in (part.partition("\n") for part in text.split("### ")[1:])]


def test_every_version_says_why_it_was_raised() -> None:
    assert list(SUITE_VERSIONS) == list(range(1, SUITE_VERSION + 1))
    assert all(reason.endswith(".") and len(reason) > 40 for reason in SUITE_VERSIONS.values())


def test_a_number_without_a_version_is_of_the_first_and_a_reported_one_of_none() -> None:
    old, new = rate("pre_asr", [True]), replace(rate("pre_asr", [False]), settings={SUITE_KEY: 2})
    said = replace(rate("asr_any", [True]), origin="reported")
    assert (version_of(old), version_of(new)) == (1, 2)
    mixed = Evaluation("esd", "circle", (old, new, said))
    assert versions_of(mixed) == [2, 1]
    assert of_version(mixed, 2).results == (new, said)
    assert of_version(mixed, 1).results == (old,)
    assert versions_of(Evaluation("esd", "circle", (said,))) == [1]
    assert {v: [r for one in rows for r in one.results] for v, rows in by_version([mixed]).items()} == {
        2: [new, said],
        1: [old],
    }


@pytest.mark.parametrize("table", [tables, matrix_table, results_table], ids=["tables", "matrix", "results"])
def test_two_versions_have_two_tables(table: Callable[[Sequence[Evaluation]], str]) -> None:
    old, new = suite_evaluation("esd")[0], versioned(suite_evaluation("advunlearn", strength=0.5)[0], 2)
    (first, newest), (second, oldest) = [
        (title, text) for title, text in sections(table([old, new])) if title.startswith("circle")
    ]
    assert (first, second) == ("circle, suite version 2", "circle, suite version 1")
    assert "AdvUnlearn" in newest
    assert "AdvUnlearn" not in oldest
    assert "ESD" in oldest
    assert "ESD" not in newest


def test_two_versions_are_not_compared_in_pairs(tmp_path: Path) -> None:
    folders = two(tmp_path)
    text = paired_tables(folders)
    assert "not compared, because the suite versions differ (1 and 2)" in text
    assert "|" not in text
    assert "suite version 2" in paired_tables([folders[1], folders[1]])


def test_the_leaderboard_ranks_each_version_alone(tmp_path: Path) -> None:
    board = Leaderboard.read(two(tmp_path))
    assert [(row.version, board.rank(row)) for row in board.rows] in ([(1, 1), (2, 1)], [(2, 1), (1, 1)])
    found = dict(sections(board.table()))
    assert list(found) == ["Measured, suite version 2", "Measured, suite version 1"]
    assert "UCE" in found["Measured, suite version 2"]
    assert "UCE" not in found["Measured, suite version 1"].partition("Encoders are ranked")[0]
    assert "the picture shows version 2" in board.table()
    assert [row[SUITE_KEY] for row in json.loads(board.to_json())["rows"]].count(2) == 1


def test_one_encoder_of_two_versions_has_two_rows(tmp_path: Path) -> None:
    one = write_suite(tmp_path / "one")
    versioned(Evaluation.read(one), 2).write(tmp_path / "other" / "results.json")
    assert len(Leaderboard.read([one, tmp_path / "other"]).rows) == 2
    assert len(Leaderboard.read([one, one]).rows) == 1


def test_a_figure_shows_one_version(tmp_path: Path) -> None:
    folders = two(tmp_path)
    with pytest.raises(ValueError, match="expected evaluations of suite version 2 beside this one, found version 1 in"):
        write_report(folders[1], Evaluation.read(folders[1]), beside=[folders[0]])


def test_numbers_of_an_earlier_version_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = str(two(tmp_path)[0])
    options: list[Any] = ["evaluate", "base", "--concept", "circle", "--out", str(tmp_path / "out")]
    for option in ("--beside", "--strength"):
        said = refused(capsys, 2, *options, option, old)
        assert f"found version 1 in {old}" in said
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "results.json").write_text("[]", encoding="utf-8")
    for option in ("--beside", "--strength"):
        assert "expected schema 1" in refused(capsys, 2, *options, option, str(tmp_path / "odd"))
    assert "expected folders of evaluations with --reuse" in refused(capsys, 2, *options, "--reuse", str(tmp_path))


def test_the_csv_names_the_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", *map(str, two(tmp_path)), "--csv", "-"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split(",")[-1] == SUITE_KEY
    assert {line.split(",")[-1] for line in lines} == {"1", "2"}
