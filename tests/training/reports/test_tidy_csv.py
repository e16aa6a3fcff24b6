"""Numbers as CSV: a row for each, stable columns, nothing lost, and nothing that a spreadsheet misreads."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import save_artifact
from tree import ROOT

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.tidy_csv import COLUMNS, Source, csv_text
from robust_encoders.training.types import Result

ATTACK = {"attack": {"label": "discrete", "name": "unlearn_diff_atk", "tier": "T3"}}
NUMBER = Result("asr_any", 1 / 3, 30, (0.1, 0.6), seeds=(4,), prompt_set="circle/name", settings=ATTACK, tier="T3")


def written(folder: Path, *results: Result, label: str = "esd", concept: str = "circle", **fields: Any) -> Source:
    Evaluation(label, concept, results, **fields).write(folder / "results.json")
    return Source.read(folder)


def rows(*sources: Source) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(sources))))


def test_every_number_has_a_row_with_what_it_depends_on(tmp_path: Path) -> None:
    subject = {
        "recipe": {"name": "shapes/circle-esd", "seed": 7},
        "content_sha256": "c" * 64,
        "base": {"id": "org/base", "models_sha256": "d" * 64},
    }
    settings = {**ATTACK, "sampling": {"steps": 15, "guidance": 4.0}, "device": "cpu"}
    judged: dict[str, Any] = {
        "detector": "a-judge",
        "detector_version": "1",
        "threshold": 0.5,
        "versions": {"torch": "2", "a": "1"},
    }
    source = written(
        tmp_path,
        replace(NUMBER, settings=settings, unet_calls=12, **judged),
        rate("pre_asr", [True, False]),
        subject=subject,
        seconds={"attack-discrete": 1.5},
    )
    attacked, plain = rows(source)
    assert attacked == {
        **{"source": str(tmp_path), "label": "esd", "encoder": "ESD", "content_sha256": "c" * 64},
        **{"recipe": "shapes/circle-esd", "training_seed": "7", "concept": "circle", "base": "org/base"},
        **{"prompt_set": "circle/name", "prompt_sha256": "", "metric": "asr_any", "attack": "discrete"},
        **{"attack_name": "unlearn_diff_atk", "tier": "T3", "value": repr(1 / 3), "low": "0.1", "high": "0.6"},
        **{"n": "30", "seed": "4", "origin": "measured", "trusted": "true", "doubts": "", "detector": "a-judge"},
        **{"detector_version": "1", "threshold": "0.5", "steps": "15", "guidance": "4.0", "device": "cpu"},
        **{"unet_calls": "12", "seconds": "1.5", "versions": "torch 2; a 1"},
        "suite_version": "1",
    }
    assert tuple(attacked) == COLUMNS
    assert float(attacked["value"]) == 1 / 3, "a value keeps all its digits"
    missing = ("attack", "attack_name", "threshold", "steps", "guidance", "seconds", "seed", "versions")
    assert {plain[name] for name in missing} == {""}


def test_single_detectors_follow_the_agreed_rate_under_a_metric_of_their_own(tmp_path: Path) -> None:
    singles = {
        "geometry": {"value": 0.5, "n": 30, "interval": [0.4, 0.6]},
        "judge": {"value": 0.4, "n": 30, "interval": None},
    }
    agreed = replace(
        NUMBER, detector="both", threshold=0.0, settings={**ATTACK, "singles": singles, "suite_version": 2}
    )
    found = rows(written(tmp_path, agreed, replace(NUMBER, origin="reported")))
    keys = ("metric", "detector", "value", "low", "attack", "suite_version")
    assert [[row[key] for key in keys] for row in found] == [
        ["asr_any", "both", repr(1 / 3), "0.1", "discrete", "2"],
        ["asr_any_single", "geometry", "0.5", "0.4", "discrete", "2"],
        ["asr_any_single", "judge", "0.4", "", "discrete", "2"],
        ["asr_any", NUMBER.detector, repr(1 / 3), "0.1", "discrete", ""],
    ]


def test_a_number_whose_check_failed_says_so(tmp_path: Path) -> None:
    check = {"name": "succeeds_on_base", "attack": "discrete", "ok": False, "found": 0.1, "n": 4, "detail": "too weak"}
    row, other = rows(written(tmp_path, NUMBER, rate("pre_asr", [True]), checks=(check,)))
    assert (row["trusted"], row["doubts"]) == ("false", "too weak.")
    assert (other["trusted"], other["doubts"]) == ("true", "")


@pytest.mark.parametrize(
    "text", ["a,b;c\td", 'a "b"', "two\nlines", "two\r\nlines", "café 円 🦩", " spaces ", "a|b", "null", "'quoted"]
)
def test_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    source = written(tmp_path, replace(NUMBER, prompt_set=text), label=text, concept=text)
    (row,) = csv.DictReader(io.StringIO(csv_text([source]), newline=""))
    assert [row[name] for name in ("label", "concept", "prompt_set")] == [text] * 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_text_that_a_spreadsheet_would_compute_stays_text(tmp_path: Path, text: str) -> None:
    source = written(tmp_path, replace(NUMBER, value=-0.5), concept=text)
    (row,) = csv.DictReader(io.StringIO(csv_text([source]), newline=""))
    assert row["concept"] == f"'{text}"
    assert row["value"] == "-0.5", "a number is no formula"


def test_odd_values_leave_no_odd_cells(tmp_path: Path) -> None:
    odd = replace(NUMBER, value=math.nan, seeds=(0, 1, 2), settings={"sampling": None})
    evaluation = Evaluation("half \ud83d of a pair", "circle", (odd,))
    stored = replace(written(tmp_path, NUMBER).stored, evaluation=evaluation)
    (row,) = rows(replace(written(tmp_path, NUMBER), stored=stored))
    assert (row["value"], row["seed"], row["steps"]) == ("", "0 1 2", "")
    assert row["label"] == r"half \ud83d of a pair"


def test_an_artifact_speaks_by_its_manifest(tiny_pipe: Any, tmp_path: Path) -> None:
    folder = save_artifact(tiny_pipe, tmp_path / "artifact")
    for path in (folder, folder / MANIFEST_NAME):
        source = Source.read(path)
        plain, attacked = rows(source)
        assert not source.evaluated
        assert (plain["metric"], plain["value"], plain["low"], plain["high"]) == ("pre_asr", "0.125", "0.02", "0.47")
        assert (attacked["attack"], attacked["attack_name"], attacked["tier"]) == ("an-attack", "p4d", "")
        assert {plain["concept"], attacked["concept"]} == {"circle"}
        record = Manifest.read(folder).files["model.safetensors"]
        assert plain["content_sha256"] == record.content_sha256


def test_a_withdrawn_number_of_a_shipped_encoder_is_not_trusted() -> None:
    found = rows(Source.read(ROOT / "robust_encoders" / "assets" / "shapes" / "encoders" / "circle"))
    worst = next(row for row in found if row["metric"] == "worst_case")
    assert worst["recipe"] == "shapes/circle"
    assert worst["trusted"] == "false"
    assert "Withdrawn." in worst["doubts"]


def test_every_stored_evaluation_of_the_studies_has_a_row_for_each_number() -> None:
    files = sorted((ROOT / "studies").rglob("results.json"))
    assert len(files) > 20
    for file in files:
        found = rows(Source.read(file))
        agreed = [row for row in found if not row["metric"].endswith("_single")]
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        assert len(agreed) == len(results), file
        singles = [name for result in results for name in (result["settings"].get("singles") or {})]
        assert [row["detector"] for row in found if row["metric"].endswith("_single")] == singles, file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected the JSON of an evaluation"),
        ("[]", "expected schema 1"),
        ('{"schema": 1}', "expected all fields of an evaluation"),
        ('{"schema": 1, "label": "a", "concept": "b", "seconds": {}, "results": [{"odd": 1}]}', "all fields"),
        ('{"schema": 1, "label": "a", "concept": "b", "seconds": {}, "results": []}', "expected numbers"),
        (b"\xff\xfe", "expected the JSON of an evaluation"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_in_words(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        Source.read(file)
    with pytest.raises(FileNotFoundError):
        Source.read(tmp_path / "none")
