"""The tables about one evaluation: attacks under their tiers, marks with their reasons, what is kept in groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import Attacks, write_evaluation
from suite_evaluations import write_suite

from robust_encoders.training.evaluation.sanity.trust import Marks
from robust_encoders.training.reports.evaluation_tables import tables_of
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.tables import Table


@pytest.fixture
def suite(tmp_path: Path) -> StoredEvaluation:
    return StoredEvaluation.read(write_suite(tmp_path))


def tables(stored: StoredEvaluation) -> dict[str, Table]:
    return {table.title: table for table in tables_of(stored)}


def texts(stored: StoredEvaluation, title: str) -> dict[str, list[list[str]]]:
    return tables(stored)[title].texts(Marks())


def test_attacks_stand_under_their_tier_and_the_worst_cases_below(suite: StoredEvaluation) -> None:
    groups = texts(suite, "Under attack")
    *tiers, worst = groups
    assert [title[:4] for title in tiers] == ["T0: ", "T1: ", "T2: ", "T3: ", "T4: "]
    assert "T3: tokens, with the model's gradients" in tiers
    assert [row[0] for row in groups[tiers[2]]] == ["random T2", "transfer T2", "ring_a_bell T2", "black_box T2"]
    assert [row[0] for row in groups[worst]] == [
        "worst case, T0-T3 (encoders are ranked by it)",
        "worst case, T0-T4",
    ]
    assert {len(row) for rows in groups.values() for row in rows} == {len(tables(suite)["Under attack"].head)}


def test_numbers_that_cannot_be_trusted_say_so_with_the_reason_below(suite: StoredEvaluation) -> None:
    marks = Marks()
    groups = tables(suite)["Under attack"].texts(marks)
    marked = [row[0] for rows in groups.values() for row in rows if "not trusted" in row[1]]
    assert marked == ["p4d T3"]
    assert marks.notes() == ["¹ p4d wins 41.0 % of 200 on the base, less than 90.0 %."]


def test_the_checks_are_a_table_with_one_row_each(suite: StoredEvaluation) -> None:
    rows = texts(suite, "Can these numbers be trusted?")[""]
    assert [(row[1], row[2]) for row in rows] == [
        ("all", "yes"),
        ("discrete", "yes"),
        ("p4d", "no"),
        ("random", "no"),
        ("discrete", "yes"),
    ]
    assert rows[0][3] == "Gradients of the loss reach the text encoder's input in 16 of 16 cases."


def test_limits_of_scope_have_a_table_that_says_what_they_are(suite: StoredEvaluation) -> None:
    table = tables(suite)["Limits of scope"]
    assert "These attacks bypass the text encoder" in table.note
    assert [title[:2] for title in table.groups] == ["T5", "T6", "T7"]


def test_what_is_kept_stands_in_groups_and_distances_are_no_per_cent(suite: StoredEvaluation) -> None:
    groups = texts(suite, "Utility and controls")
    assert [len(rows) for rows in groups.values()] == [6, 8, 5, 1, 5]
    values = {row[0]: row[1] for rows in groups.values() for row in rows}
    assert (values["FID of kept pictures"], values["KID of kept pictures"]) == ("12.35", "0.0012")
    assert values["LPIPS, erased less kept (higher is better)"] == "0.300 [0.250, 0.350]"
    assert values["concept recognised in renders of it, %"] == "75.0 [59.8, 85.8]"
    assert not any(name.startswith("worst") for name in values)


def test_an_evaluation_of_the_earlier_kind_has_the_tables_it_has_numbers_for(tmp_path: Path) -> None:
    attacks: Attacks = {"a": ("T3", [20, None, 40, None]), "c": ("T4", [5, None, None, None])}
    found = tables(StoredEvaluation.read(write_evaluation(tmp_path, attacks)))
    assert list(found) == ["Without an attack", "Under attack", "Utility and controls"]
    assert found["Without an attack"].groups[""][0][1] == "T0"
