"""``robust-encoders results``: its files for other programs, written whole or not at all."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from commands import refused
from evaluations import write_cell, write_evaluation

from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.benchmarks.mma_prompts import AdversarialPrompt
from robust_encoders.training.evaluation.benchmarks.prompt_sources import concept_prompts
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.winners import winning_texts
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.tidy_csv import COLUMNS
from robust_encoders.training.types import CandidateKind, JudgedPicture, Verdict


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


def won(index: int, text: str, *, seed: int = 0, kind: CandidateKind = "text", hit: bool = True) -> Verdict:
    """A verdict whose best candidate is this one."""
    picture = JudgedPicture(0, 1, kind, text, (), seed, {"judge": 1.0 if hit else -1.0}, hit)
    return Verdict(index, f"prompt {index}", seed, False, hit, hit, 1, text, (picture,), best=0)


@pytest.fixture
def attacked(tmp_path: Path) -> Path:
    """An evaluation with texts that won, texts that did not, and an attack on embeddings that won."""
    folder = write_evaluation(tmp_path / "attacked", {"discrete": ("T3", [1]), "continuous": ("T4", [1])})
    rows = {
        "discrete": [
            won(0, "qx zv", seed=5),
            won(1, "no", hit=False),
            won(2, "null"),
            won(3, "a,\nb"),
            won(0, "qx zv"),
        ],
        "continuous": [won(0, "", kind="token_embeddings")],
        "none": [won(4, "prompt 4")],
    }
    for name, verdicts in rows.items():
        result = {"settings": {"attack": {"label": name}}}
        write_cell(folder, f"attack-{name}", {"verdicts": [asdict(v) for v in verdicts], "results": [result]})
    return folder


def test_texts_that_won_are_written_for_eval_unlearn_and_read_back(
    attacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "won.csv"
    assert main(["results", str(attacked), "--mma-csv", str(out)]) == 0
    assert capsys.readouterr().out
    assert "a text that won is not written: expected a text, found 'null'" in caplog.text
    with out.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [("qx zv", "prompt 0", "5", "discrete"), ("a,\nb", "prompt 3", "0", "discrete")]
    cases = concept_prompts(str(out), guidance=7.5).cases
    assert [(case.prompt, case.goal, case.seed) for case in cases] == [
        ("qx zv", "prompt 0", 5), ("a,\nb", "prompt 3", 0)
    ]  # fmt: skip


def test_nothing_is_written_where_no_text_won(
    found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--csv", str(tmp_path / "all.csv"), "--mma-csv", str(tmp_path / "won.csv")]
    told = refused(capsys, 2, "results", *found, *both)
    assert "expected evaluations in which an attack on text won, found no text that can be written" in told
    assert not [*tmp_path.glob("*.csv")]


def test_a_file_of_prompts_needs_a_name(
    attacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["results", str(attacked), "--mma-csv"]
    for place in (str(tmp_path), "-"):
        told = refused(capsys, 2, *command, place)
        found = re.search(r"expected a file name after --mma-csv, found .*; name a file, such as (\S+)", told)
        assert found is not None
        assert main([*command, found[1]]) == 0
        assert Path(found[1]).read_text().startswith('"adversarial_prompt","target_prompt",')
        capsys.readouterr()


def test_a_record_without_pictures_gives_the_text_of_its_winner(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "old", {"discrete": ("T3", [0, 3, None])})
    assert winning_texts(folder) == [AdversarialPrompt("text", "prompt 1", 1, "discrete")]
