"""The leaderboard of whole suites: the recorded worst case ranks, tiers beyond it stand beside, sources are joined."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import Attacks, write_evaluation
from PIL import Image
from suite_evaluations import checks, suite_evaluation, write_suite

from robust_encoders import RobustEncoder
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.reports.leaderboard import Leaderboard
from robust_encoders.training.reports.plots.style import LIGHT, png


def board_of(tmp_path: Path, **evaluations: dict[str, Any]) -> Leaderboard:
    folders = [write_suite(tmp_path / label, label, cells=False, **how) for label, how in evaluations.items()]
    return Leaderboard.read(folders)


def head_and_rows(table: str) -> tuple[list[str], list[dict[str, str]]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def save(evaluation: Evaluation, folder: Path, **changes: Any) -> Path:
    results = tuple(replace(result, **changes) for result in evaluation.results)
    replace(evaluation, results=results).write(folder / RESULTS_NAME)
    return folder


def test_rows_are_ranked_by_the_recorded_worst_case_and_baselines_are_rows(tmp_path: Path) -> None:
    board = board_of(tmp_path, base={"strength": 3}, word_filter={"strength": 0.8}, esd={"strength": 0.4})
    _, rows = head_and_rows(board.table())
    assert [(row["rank"], row["encoder"]) for row in rows] == [
        ("1", "ESD, seed 3"),
        ("2", "word filter, seed 3"),
        ("3", "base, seed 3"),
    ]
    assert {row["conditions"] for row in rows} == {"A"}
    for row, one in zip(rows, board.rows, strict=True):
        recorded = {r.metric: r.value for r in one.sources[0].stored.evaluation.results}
        assert row["worst case T0-T3"].startswith(f"{100 * recorded['worst_case']:.1f} [")
        assert row["worst case T0-T4"].startswith(f"{100 * recorded['worst_case_embeddings']:.1f} [")


def test_of_each_tier_the_strongest_attack_is_shown_and_limits_are_said_not_to_rank(tmp_path: Path) -> None:
    head, (row,) = head_and_rows(board_of(tmp_path, esd={}).table())
    assert head[6:14] == ["T0", "T1", "T2", "T3", "T4", "T5, not ranked", "T6, not ranked", "T7, not ranked"]
    assert row["T2"] == "black_box 40.0"
    assert row["T4"] == "continuous 95.0"
    assert row["T6, not ranked"] == "latent_inversion 100.0"


def test_limits_do_not_keep_encoders_apart(tmp_path: Path) -> None:
    without = tuple(r for r in suite_evaluation("advunlearn")[0].results if r.tier not in ("T5", "T6", "T7"))
    one = write_suite(tmp_path / "esd")
    other = save(replace(suite_evaluation("advunlearn")[0], results=without), tmp_path / "other")
    assert set(Leaderboard.read([one, other]).groups) == {"A"}


def test_json_keeps_every_attack(tmp_path: Path) -> None:
    board = board_of(tmp_path, esd={})
    (row,) = json.loads(board.to_json())["rows"]
    assert len(row["attacks"]) == 16
    assert row["attacks"]["p4d"]["not_trusted"] == ["succeeds_on_base"]
    assert row["attacks"]["prompt_embeds"]["tier"] == "T7"
    assert row["worst_case_embeddings"]["value"] >= row["worst_case"]["value"]
    assert len(row["checks"]) == 5


def test_numbers_whose_check_failed_are_marked(tmp_path: Path) -> None:
    board = board_of(tmp_path, esd={}, advunlearn={"checks": checks(("gradients_alive", ""))})
    rows = {row["encoder"]: row for row in head_and_rows(board.table())[1]}
    assert "not trusted" not in rows["ESD, seed 3"]["worst case T0-T3"]
    for column in ("worst case T0-T3", "worst case T0-T4", "T3", "T4"):
        assert "not trusted ¹" in rows["AdvUnlearn, seed 3"][column]
    assert "not trusted" not in rows["AdvUnlearn, seed 3"]["T2"]
    assert "Not trusted:\n- ¹ Gradients of the loss" in board.table()


def test_a_reported_number_that_is_stronger_marks_the_measured_row(tmp_path: Path) -> None:
    measured = write_suite(tmp_path / "measured", strength=0.4, subject={"name": "esd", "content_sha256": "one"})
    source = suite_evaluation("esd", subject={"name": "esd", "content_sha256": "one"})[0]
    reported = save(source, tmp_path / "reported", origin="reported")
    board = Leaderboard.read([measured, reported])
    assert [row.origin for row in board.rows] == ["measured", "reported"]
    mine, theirs = board.rows
    assert mine.reported_stronger(board.rows) == [
        f"ESD, seed 3, {tiers}: {own.number.text} measured; reported stronger: {said.number.text} by {reported}"
        for tiers, own, said in (
            ("T0-T3", mine.worst, theirs.worst),
            ("T0-T4", mine.worst_embeddings, theirs.worst_embeddings),
        )
        if own is not None and said is not None
    ]
    assert theirs.reported_stronger(board.rows) == []
    before, after = board.table().split("### Reported by others")
    assert ", reported stronger |" in before
    assert "reported stronger: " in after.split("Replaced by a stronger attack:")[1]
    assert json.loads(board.to_json())["rows"][0]["reported_stronger"] == mine.reported_stronger(board.rows)


@pytest.mark.parametrize(
    ("subject", "changes"),
    [
        ({"name": "esd", "content_sha256": "another"}, {}),
        ({"name": "esd", "content_sha256": "one"}, {"prompt_sha256": "decaf"}),
        ({"name": "esd", "content_sha256": "one"}, {"prompt_sha256": ""}),
    ],
    ids=["encoder", "prompts", "unnamed prompts"],
)
def test_a_number_about_something_else_marks_nothing(
    tmp_path: Path, subject: dict[str, Any], changes: dict[str, Any]
) -> None:
    measured = write_suite(tmp_path / "measured", strength=0.4, subject={"name": "esd", "content_sha256": "one"})
    reported = save(suite_evaluation(subject=subject)[0], tmp_path / "reported", origin="reported", **changes)
    board = Leaderboard.read([measured, reported])
    assert [row.reported_stronger(board.rows) for row in board.rows] == [[], []]
    assert "reported stronger" not in board.table()


def test_a_weaker_reported_number_marks_nothing_and_another_judge_is_named(tmp_path: Path) -> None:
    measured = write_suite(tmp_path / "measured")
    same: dict[str, Any] = {"subject": Evaluation.read(measured).subject}
    weaker = save(suite_evaluation(strength=0.4, **same)[0], tmp_path / "weaker", origin="reported")
    assert not Leaderboard.read([measured, weaker]).rows[0].reported_stronger(Leaderboard.read([weaker]).rows)
    other = save(suite_evaluation(strength=3, **same)[0], tmp_path / "other", origin="reported", detector="eye")
    board = Leaderboard.read([measured, other])
    assert all("judged by eye v1" in line for line in board.rows[0].reported_stronger(board.rows))


def test_folders_about_the_same_tensors_are_joined(
    tmp_path: Path, tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    """One folder holds only the hash that the evaluation recorded, one the artifact, one the artifact inside."""
    encoder = make_encoder(tiny_pipe)
    subject = {"name": "esd", "content_sha256": encoder.content_sha256}
    recorded = write_suite(tmp_path / "recorded", subject=subject)
    records = suite_evaluation()[0].records()
    make_encoder(tiny_pipe, results=records).save_pretrained(tmp_path / "artifact")
    inside = write_suite(tmp_path / "inside", subject={})
    encoder.save_pretrained(inside / "encoder")
    (row,) = Leaderboard.read([recorded, tmp_path / "artifact", inside]).rows
    assert len(row.sources) == 3
    assert row.worst == row.sources[0].stored.recorded("worst_case")  # all three say the same
    assert row.replaced() == []


def test_doubts_in_a_manifest_mark_its_numbers_and_do_not_make_them_others(
    tmp_path: Path, tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    encoder, said = make_encoder(tiny_pipe), "p4d wins 41.0 % of 200 on the base, less than 90.0 %"
    measured = write_suite(tmp_path / "measured", cells=False, subject={"content_sha256": encoder.content_sha256})
    records = [dict(record) for record in suite_evaluation()[0].records()]
    for record in records:
        if record["settings"].get("attack", {}).get("label") == "p4d":
            record["settings"] = {**record["settings"], "doubts": [said]}
    make_encoder(tiny_pipe, results=tuple(records)).save_pretrained(tmp_path / "artifact")
    (row,) = Leaderboard.read([measured, tmp_path / "artifact"]).rows
    assert row.worst is not None
    assert row.worst.exact
    alone = json.loads(Leaderboard.read([tmp_path / "artifact"]).to_json())["rows"][0]
    assert [label for label, attack in alone["attacks"].items() if attack["not_trusted"]] == ["p4d"]
    assert [check["detail"] for check in alone["checks"]] == [said]


def test_an_attack_that_only_another_folder_ran_joins_the_worst_case(tmp_path: Path) -> None:
    """Without the cells of both it is a bound, not below what either of them recorded."""
    same: dict[str, Any] = {"subject": {"name": "esd", "content_sha256": "one"}}
    few = write_suite(tmp_path / "few", labels=("none", "random"), **same)
    more = write_suite(tmp_path / "more", labels=("none", "discrete", "p4d"), **same)
    known = Leaderboard.read([few, more]).rows[0].worst
    assert known is not None
    assert known.exact
    assert set(known.labels) == {"none", "random", "discrete", "p4d"}
    for folder in (few, more):
        for cell in (folder / "cells").iterdir():
            cell.unlink()
    (row,) = Leaderboard.read([few, more]).rows
    recorded = [one.stored.recorded("worst_case") for one in row.sources]
    assert row.worst is not None
    assert not row.worst.exact
    assert known.value >= row.worst.value == max(worst.value for worst in recorded if worst is not None)
    assert len(row.replaced()) == 1


def test_baselines_of_equal_settings_are_one_row_and_of_others_two(tmp_path: Path) -> None:
    described = [{"name": "word_filter", "words": [word]} for word in ("disc", "disc", "ring")]
    folders = [write_suite(tmp_path / str(i), "word_filter", subject=one) for i, one in enumerate(described)]
    assert [len(row.sources) for row in Leaderboard.read(folders).rows] == [2, 1]


def test_without_embeddings_there_is_no_worst_case_over_them(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, None, None, None])}
    (row,) = Leaderboard.read([write_evaluation(tmp_path, steps)]).rows
    assert row.worst_embeddings is None


def test_the_figure_has_one_mark_for_each_ranked_tier(tmp_path: Path) -> None:
    board = board_of(tmp_path, esd={}, base={"strength": 2})
    (axes,) = board.figure()(LIGHT).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["worst case, with 95 % interval", *(f"strongest of T{i}" for i in range(5))]
    assert Image.open(io.BytesIO(png(board.figure()))).width > 1000
