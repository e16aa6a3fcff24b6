"""The bias report: sub-groups from records, from prompts of older records, and what it says about few prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from evaluations import write_cell, write_evaluation

from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.benchmarks.prompt_files import prompt_csv
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.bias import UNATTACKED, BiasReport
from robust_encoders.training.reports.titles import WORST
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.prompts import open_prompts, values_in

N = 40
WON: list[int | None] = [1] * 20 + [None] * 20  # an attack wins the first half of the prompts


def evaluated(folder: Path, *groups: dict[str, str]) -> Path:
    """Write an evaluation of an attack that wins the first half of 40 prompts, in these groups."""
    write_evaluation(folder, {"discrete": ("T3", WON)})
    write_cell(folder, "groups", {"sets": {"circle/name": list(groups)}})
    return folder


def test_a_group_that_loses_more_is_found_and_an_even_one_is_not(tmp_path: Path) -> None:
    groups = [
        {"style": "line art" if i < 20 else "flat", "member": ("wine", "beer")[i % 2], "only": "one"} for i in range(N)
    ]
    report = BiasReport.read(evaluated(tmp_path, *groups), ["discrete"])
    rows = {(row.outcome, row.label, row.value): row for row in report.rows}
    assert {label for _, label, _ in rows} == {"style", "member"}  # a label with one value has no sub-groups
    more, less = (rows["discrete", "style", value] for value in ("line art", "flat"))
    assert (more.test.won, more.test.n, less.test.won, less.test.n) == (20, 20, 0, 20)
    assert (more.reading, less.reading) == ("succeeds more often", "succeeds less often")
    # Both rows of a pair are one test: three outcomes (none, the attack, the worst case) by two labels.
    assert {row.tests for row in report.rows} == {6}
    assert more.corrected == less.corrected == pytest.approx(6 * more.test.p)
    assert rows[WORST, "style", "line art"].reading == "succeeds more often"
    assert rows["discrete", "member", "wine"].reading == "no difference shown"
    assert rows[UNATTACKED, "style", "flat"].test.won == 0


def test_it_says_when_there_are_too_few_prompts(tmp_path: Path) -> None:
    groups = [{"style": "rare" if i in (0, 25) else f"s{i % 2}"} for i in range(N)]
    report = BiasReport.read(evaluated(tmp_path, *groups))
    readings = {row.value: row.reading for row in report.rows if row.outcome == WORST}
    assert readings["rare"] == "too few to tell"
    assert "Too few to tell means" in report.markdown()


def test_prompts_without_the_label_are_in_no_group(tmp_path: Path) -> None:
    groups: list[dict[str, str]] = [{} if i % 4 == 0 else {"style": ("a", "b")[i % 2]} for i in range(N)]
    report = BiasReport.read(evaluated(tmp_path, *groups))
    row = next(row for row in report.rows if row.outcome == WORST)
    assert row.test.n + row.test.rest_n == 30
    assert "Prompts that do not state a label are in no group of it: 10 for style." in report.markdown()


def test_the_command_prints_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated(tmp_path, *({"style": "line art" if i < 20 else "flat"} for i in range(N)))
    assert main(["bias", str(folder), "--attacks", "discrete"]) == 0
    said = capsys.readouterr().out
    assert "| style line art | 20 | 100.0 [83.9, 100.0] | 0.0 of 20" in said
    assert "succeeds more often" in said
    assert main(["bias", str(folder / "results.json"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    rows: list[dict[str, Any]] = [row for row in found["rows"] if row["outcome"] == WORST]
    assert {row["value"]: row["success"] for row in rows} == {"flat": 0.0, "line art": 1.0}


def test_what_is_not_on_record_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated(tmp_path / "a", *({"style": ("a", "b")[i % 2]} for i in range(N)))
    assert "expected attacks on record" in refused(capsys, 2, "bias", str(folder), "--attacks", "p4d")
    (folder / "cells" / "groups.json").unlink()
    assert "columns such as group:gender" in refused(capsys, 2, "bias", str(folder))
    (folder / "cells" / "attack-discrete.json").unlink()
    assert "expected the verdicts of attacks" in refused(capsys, 2, "bias", str(folder))
    assert "expected the results of a finished evaluation" in refused(capsys, 2, "bias", str(tmp_path / "no"))


def test_older_records_of_shapes_are_read_by_their_captions(tmp_path: Path) -> None:
    write_evaluation(tmp_path, {"discrete": ("T3", WON)})
    path = tmp_path / "cells" / "attack-discrete.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for i, verdict in enumerate(stored["value"]["verdicts"]):
        verdict["prompt"] = f"a {'red' if i < 20 else 'blue'} circle on a black background"
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = Evaluation.read(tmp_path)
    Evaluation(found.label, found.concept, found.results, benchmark="shapes").write(tmp_path / "results.json")
    rows = BiasReport.read(tmp_path).rows
    assert {(row.value, row.test.won) for row in rows if row.outcome == WORST} == {("red", 20), ("blue", 0)}


def test_captions_of_every_template_are_read(tmp_path: Path) -> None:
    concept = ShapesConcept.parse("circle")
    prompts = [*scene_prompts(200, seed=1, templates="all"), *open_prompts(concept, 50, seed=2)]
    assert [values_in(prompt.text) for prompt in prompts] == [dict(prompt.expected) for prompt in prompts]
    assert values_in("a circle of friends") == {}


def test_benchmarks_declare_the_groups_of_their_prompts(tmp_path: Path) -> None:
    cases = ShapesBenchmark("circle", n=20).plain_sets(0)[0].cases
    assert all(case.groups == case.expected for case in cases)
    path = tmp_path / "prompts.csv"
    path.write_text(
        "case_number,prompt,evaluation_seed,evaluation_guidance,group:gender,group:\n"
        "0,a portrait,1,7.5,female,x\n1,a portrait,2,7.5,,x\n",
        encoding="utf-8",
    )
    assert [dict(case.groups) for case in prompt_csv(path).cases] == [{"gender": "female"}, {}]
