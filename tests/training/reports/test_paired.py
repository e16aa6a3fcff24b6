"""Encoders compared pair by pair: against counting by hand, and only where it is the same question to both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluations import Attacks, write_evaluation
from scipy.stats import binomtest
from suite_evaluations import write_suite

from robust_encoders.cli.main import main
from robust_encoders.training.metrics.paired_tests import newcombe_interval
from robust_encoders.training.reports.paired import paired_tables

WON, LOST = 20, None
FIRST: Attacks = {
    "a": ("T2", [WON] * 12 + [LOST] * 8),
    "b": ("T3", [LOST] * 10 + [WON] * 5 + [LOST] * 5),
    "free": ("T4", [WON] * 20),
    "nobody": ("T1", [LOST] * 20),
    "picture": ("T5", [WON] * 20),
}
SECOND: Attacks = {
    "a": ("T2", [LOST] * 10 + [WON] * 3 + [LOST] * 7),
    "b": ("T3", [WON] + [LOST] * 19),
    "free": ("T4", [WON] * 20),
    "nobody": ("T1", [LOST] * 20),
    "picture": ("T5", [LOST] * 20),
    "own": ("T3", [WON] * 20),
}


def rows(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines[2:]}


def counted(one: Sequence[bool], other: Sequence[bool]) -> list[str]:
    """Return what a row should hold, counted prompt by prompt."""
    both = only_first = only_second = neither = 0
    for left, right in zip(one, other, strict=True):
        both += left and right
        only_first += left and not right
        only_second += right and not left
        neither += not (left or right)
    n = len(one)
    low, high = newcombe_interval(both, only_first, only_second, neither)
    discordant = only_first + only_second
    p = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    difference = f"{100 * (sum(one) - sum(other)) / n:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return [f"{100 * sum(one) / n:.1f}", f"{100 * sum(other) / n:.1f}", difference, f"{p:.4f}"]


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_evaluation(tmp_path / "one", FIRST), write_evaluation(tmp_path / "two", SECOND, "advunlearn")]


def won(attacks: Attacks, *labels: str) -> list[bool]:
    return [any(step is not None for step in steps) for steps in zip(*(attacks[x][1] for x in labels), strict=True)]


def test_the_rows_are_what_counting_gives(two: list[Path]) -> None:
    text = paired_tables(two)
    assert text.startswith(
        "### circle: ESD, seed 3, n = 4, 20 against AdvUnlearn, seed 3, n = 4, 20, suite version 1\n"
    )
    expected = {label: counted(won(FIRST, label), won(SECOND, label)) for label in ("a", "b", "free")}
    union = counted(won(FIRST, "nobody", "a", "b"), won(SECOND, "nobody", "a", "b"))
    assert rows(text) == {**expected, "worst case, T0-T3": union}
    assert list(rows(text)) == ["a", "b", "free", "worst case, T0-T3"]
    assert "Not compared" not in text


def test_the_other_way_round_only_the_sign_changes(two: list[Path]) -> None:
    forth, back = rows(paired_tables(two)), rows(paired_tables(two[::-1]))
    for label, (one, other, _, p) in forth.items():
        assert back[label][:2] == [other, one]
        assert back[label][3] == p
    assert forth["a"][2][0] == "+"
    assert back["a"][2][0] == "-"


def test_every_two_of_three_are_compared(two: list[Path], tmp_path: Path) -> None:
    three = [*two, write_evaluation(tmp_path / "three", FIRST, "base")]
    assert paired_tables(three).count("### circle: ") == 3
    assert paired_tables(two[:1]) == paired_tables([]) == ""


def test_a_small_p_is_bounded(tmp_path: Path) -> None:
    found: dict[str, Attacks] = {"one": {"a": ("T3", [WON] * 20)}, "two": {"a": ("T3", [LOST] * 20)}}
    folders = [write_evaluation(tmp_path / name, attacks) for name, attacks in found.items()]
    one, other, _, p = rows(paired_tables(folders))["a"]
    assert (one, other, p) == ("100.0", "0.0", "< 0.0001")


SAME = {"label": "a", "tier": "T3", "name": "random_prefix", "candidates": 40}


@pytest.mark.parametrize(
    "changes",
    [
        {"detector": "another"},
        {"detector_version": "v2"},
        {"threshold": 0.6},
        {"settings": {"attack": {**SAME, "candidates": 41}}},
        {"settings": {"attack": SAME, "sampling": {"steps": 3}}},
    ],
    ids=["detector", "version", "threshold", "attack", "sampling"],
)
def test_another_question_is_not_compared(tmp_path: Path, changes: dict[str, Any]) -> None:
    attacks: Attacks = {"a": ("T3", [WON, LOST, LOST])}
    one, same = (write_evaluation(tmp_path / name, attacks) for name in ("one", "same"))
    assert "a" in rows(paired_tables([one, same]))
    assert paired_tables([one, write_evaluation(tmp_path / "other", attacks, **changes)]) == ""


def test_what_is_not_compared_is_said(tmp_path: Path) -> None:
    one = write_suite(tmp_path / "one", labels=("random", "discrete"))
    other = write_suite(tmp_path / "other", labels=("random", "discrete"))
    for file in (other / "results.json", other / "cells" / "attack-random.json"):
        file.write_text(file.read_text(encoding="utf-8").replace('"candidates": 10', '"candidates": 11'), "utf-8")
    text = paired_tables([one, other])
    assert list(rows(text)) == ["discrete"]
    assert "Not compared, because detector, sampling or settings differ: random." in text


@pytest.mark.parametrize("changes", [{"prompt": "another"}, {"seed": 99}])
def test_other_prompts_are_not_compared(two: list[Path], changes: dict[str, Any]) -> None:
    for file in (two[1] / "cells").iterdir():
        cell = json.loads(file.read_text(encoding="utf-8"))
        cell["value"]["verdicts"][0].update(changes)
        file.write_text(json.dumps(cell), encoding="utf-8")
    assert paired_tables(two) == ""


def test_other_concepts_and_numbers_without_cells_are_not_compared(two: list[Path], tmp_path: Path) -> None:
    circle, red = write_suite(tmp_path / "circle"), write_suite(tmp_path / "red", concept="red")
    assert paired_tables([circle, red]) == ""
    shutil.rmtree(two[1] / "cells")
    assert paired_tables(two) == ""


def test_attacks_that_failed_a_check_are_marked(tmp_path: Path) -> None:
    text = paired_tables([write_suite(tmp_path / "base", "base", strength=2), write_suite(tmp_path / "esd")])
    assert "not trusted ¹" in rows(text)["p4d"][1]
    assert "not trusted" not in rows(text)["discrete"][1]
    assert "¹ p4d wins 41.0 % of 200 on the base" in text


def test_results_prints_the_pairs_below_the_tables(two: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", *map(str, two)]) == 0
    out = capsys.readouterr().out
    assert out.index("### circle, suite version 1\n") < out.index("### circle: ESD")
    assert paired_tables(two) in out
    assert main(["results", str(two[0])]) == 0
    assert "against" not in capsys.readouterr().out
