"""The leaderboard: ranks only what can be compared, keeps reported numbers apart, and the strongest attack wins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations import Attacks, write_evaluation
from PIL import Image

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.leaderboard import Leaderboard
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.types import Result

WEAK: Attacks = {"a": ("T3", [20, None, None, None])}
STRONG: Attacks = {"a": ("T3", [None, 20, 40, None])}


def ranks(board: Leaderboard) -> list[tuple[str, int, str]]:
    return [(row.sources[0].stored.evaluation.label, board.rank(row), board.letter(row)) for row in board.rows]


def test_the_encoder_that_stands_most_comes_first_where_conditions_are_equal(tmp_path: Path) -> None:
    weak = write_evaluation(tmp_path / "weak", WEAK, "esd")
    strong = write_evaluation(tmp_path / "strong", STRONG, "advunlearn")
    board = Leaderboard.read([weak, strong])
    assert ranks(board) == [("esd", 1, "A"), ("advunlearn", 2, "A")]


@pytest.mark.parametrize(
    "changes",
    [
        {"detector": "another"},
        {"detector_version": "v2"},
        {"threshold": 0.6},
        {"prompt_sha256": "decaf"},
        {"settings": {"attack": {"label": "a", "tier": "T3", "name": "random_prefix", "candidates": 41}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_numbers_of_other_conditions_are_not_ranked_together(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = write_evaluation(tmp_path / "one", WEAK, "esd")
    other = write_evaluation(tmp_path / "other", STRONG, "advunlearn", **changes)
    board = Leaderboard.read([one, other])
    assert sorted((label, rank) for label, rank, _ in ranks(board)) == [("advunlearn", 1), ("esd", 1)]
    assert set(board.groups) == {"A", "B"}
    assert "Ranks compare only numbers under the same letter" in board.table()


def test_a_lower_bound_is_not_ranked_against_a_number_that_is_known(tmp_path: Path) -> None:
    """Each attack wins one case of four; whether it is the same case only the verdicts know."""
    both: Attacks = {"a": ("T3", [20, None, None, None]), "b": ("T3", [None, 20, None, None])}
    known = write_evaluation(tmp_path / "known", both, "esd")
    bound = write_evaluation(tmp_path / "bound", both, "advunlearn")
    shutil.rmtree(bound / "cells")
    board = Leaderboard.read([known, bound])
    worst = {row.sources[0].stored.evaluation.label: row.worst for row in board.rows}
    assert {label: (w.value, w.exact) for label, w in worst.items() if w is not None} == {
        "esd": (0.5, True),
        "advunlearn": (0.25, False),
    }
    assert sorted((label, rank) for label, rank, _ in ranks(board)) == [("advunlearn", 1), ("esd", 1)]
    assert "worst case lower bound" in board.table()


def test_reported_numbers_stand_apart(tmp_path: Path) -> None:
    measured = write_evaluation(tmp_path / "one", WEAK, "esd")
    reported = write_evaluation(tmp_path / "other", STRONG, "advunlearn", origin="reported")
    board = Leaderboard.read([reported, measured])
    assert ranks(board) == [("esd", 1, "A"), ("advunlearn", 1, "B")]
    before, after = board.table().split("### Reported by others, not measured here")
    assert "AdvUnlearn" in after
    assert "AdvUnlearn" not in before


@pytest.mark.parametrize(
    ("attack", "label"),
    [({"name": "p4d"}, "p4d"), ({}, "unknown attack"), ({"label": "a", "name": "p4d"}, "a")],
    ids=["name", "nothing", "label"],
)
@pytest.mark.parametrize("tier", ["T3", ""], ids=["tier", "no tier"])
def test_reported_attacks_go_by_what_is_known_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: dict[str, str], label: str, tier: str
) -> None:
    settings = {"attack": attack} if attack else {}
    sources = [Result("asr_any", value, 4, origin="reported", settings=settings, tier=tier) for value in (0.5, 0.25)]
    Evaluation("esd", "circle", tuple(sources)).write(tmp_path / "results.json")
    assert main(["leaderboard", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert f"| {label} 50.0" in capsys.readouterr().out
    assert StoredEvaluation.read(tmp_path).attacks == {label: sources[0]}
    (row,) = Leaderboard.read([tmp_path]).rows
    assert list(row.attacks) == [label]


def test_an_attack_of_no_known_tier_ranks_nobody(tmp_path: Path) -> None:
    Evaluation("esd", "circle", (Result("asr_any", 0.5, 4, origin="reported"),)).write(tmp_path / "results.json")
    board = Leaderboard.read([tmp_path])
    assert "no tier known, not ranked" in board.table()
    assert board.rows[0].worst is None


def test_a_stronger_attack_on_the_same_encoder_replaces_a_weaker_number(
    tmp_path: Path, tiny_encoder: RobustEncoder
) -> None:
    folders = [write_evaluation(tmp_path / "weak", WEAK), write_evaluation(tmp_path / "strong", STRONG)]
    for folder in folders:
        tiny_encoder.save_pretrained(folder / "encoder")
    (row,) = Leaderboard.read(folders).rows
    assert row.attacks["a"][0].number.value == 0.5
    assert row.attacks["a"][1].folder == str(folders[1])
    assert row.worst is not None
    assert (row.worst.value, row.worst.exact) == (0.75, True)  # each won cases that the other lost
    assert [str(folder) in line for folder, line in zip(folders, row.replaced(), strict=True)] == [True, True]
    assert "is replaced by 75.0" in Leaderboard.read(folders).table()


def test_another_encoder_is_not_replaced(
    tmp_path: Path, tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    folders = [write_evaluation(tmp_path / "weak", WEAK), write_evaluation(tmp_path / "strong", STRONG)]
    for seed, folder in enumerate(folders):
        make_encoder(tiny_pipe, seed=seed).save_pretrained(folder / "encoder")
    board = Leaderboard.read(folders)
    assert len(board.rows) == 2
    assert [row.replaced() for row in board.rows] == [[], []]


def test_an_artifact_speaks_for_itself_and_is_the_same_encoder_as_its_evaluation(
    tmp_path: Path, tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    folder = write_evaluation(tmp_path / "results", WEAK)
    make_encoder(tiny_pipe, results=Evaluation.read(folder).records()).save_pretrained(tmp_path / "artifact")
    make_encoder(tiny_pipe).save_pretrained(folder / "encoder")
    (row,) = Leaderboard.read([tmp_path / "artifact", folder]).rows
    assert [one.folder for one in row.sources] == [str(tmp_path / "artifact"), str(folder)]
    assert row.worst is not None
    assert (row.worst.value, row.worst.exact, row.replaced()) == (0.25, True, [])


def test_the_command_prints_the_table_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_evaluation(tmp_path / "one", WEAK)
    assert main(["leaderboard", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "| 1    | A " in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "leaderboard.png").width > 1000
    assert main(["leaderboard", str(folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"][0]["worst_case"]["value"] == 0.25
    assert answer["conditions"]["A"]["prompts"] == "circle/name (4), hash c0ffee"


def test_what_is_no_evaluation_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert f"found no {tmp_path / 'results.json'}" in capsys.readouterr().err
    Evaluation("esd", "circle", ()).write(tmp_path / "results.json")
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "expected rates of success" in capsys.readouterr().err
