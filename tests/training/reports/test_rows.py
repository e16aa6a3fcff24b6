"""The rows about one evaluation: every number with what its reader has to know, from one place."""

from __future__ import annotations

from pathlib import Path

from evaluations import Attacks, write_evaluation
from suite_evaluations import SUITE, write_suite

from robust_encoders.training.reports.rows import attack_rows, metric_rows, plain_rows, worst_rows
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation


def test_an_attack_has_its_rates_costs_and_failed_checks_in_its_row(tmp_path: Path) -> None:
    rows = {row.label: row for row in attack_rows(StoredEvaluation.read(write_suite(tmp_path)))}
    assert list(rows) == list(SUITE)
    p4d = rows["p4d"]
    assert p4d.gained is not None
    assert p4d.last is not None
    assert (p4d.tier, p4d.number.text, p4d.gained.bare, p4d.last.bare) == ("T3", "15.0 [7.1, 29.1]", "10.0", "15.0")
    assert (p4d.unet_calls, p4d.seconds, p4d.origin, p4d.attack["steps"]) == (1_234_567, 219.0, "measured", 3000)
    assert [check["name"] for check in p4d.number.failed] == ["succeeds_on_base"]
    assert [label for label, row in rows.items() if row.number.failed] == ["p4d"]


def test_prompts_without_an_attack_have_a_row_for_each_set(tmp_path: Path) -> None:
    rows = plain_rows(StoredEvaluation.read(write_evaluation(tmp_path, {})))
    assert [(row.label, row.prompts, row.tier, row.number.n) for row in rows] == [
        ("no attack: name", "circle/name", "T0", 4)
    ]


def test_a_worst_case_over_one_attack_is_no_row_where_two_are_asked_for(tmp_path: Path) -> None:
    attacks: Attacks = {"a": ("T3", [20, None]), "c": ("T4", [5, 5])}
    stored = StoredEvaluation.read(write_evaluation(tmp_path, attacks))
    assert [(row.tier, row.attack["attacks"]) for row in worst_rows(stored)] == [
        ("T0-T3", ("a",)),
        ("T0-T4", ("a", "c")),
    ]
    assert [row.tier for row in worst_rows(stored, least=2)] == ["T0-T4"]


def test_metrics_stand_in_groups(tmp_path: Path) -> None:
    groups = metric_rows(StoredEvaluation.read(write_evaluation(tmp_path, {})))
    assert {title: [row.label for row in rows] for title, rows in groups.items()} == {
        "Kept prompts drawn as asked: higher is better": ["all as asked, %", "CLIP score"]
    }
