"""The table: every number in its column with its interval, and what is missing said to be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.matrix import tables
from robust_encoders.training.reports.results_table import results_table
from robust_encoders.training.reports.tables import MISSING
from robust_encoders.training.types import Result


def plain(words: str, k: int, n: int = 200) -> Result:
    result = rate("pre_asr", [True] * k + [False] * (n - k))
    return Result(**{**vars(result), "prompt_set": f"circle/{words}", "seeds": (0,)})


def attacked(label: str, k: int, metric: str = "asr_any") -> Result:
    result = rate(metric, [True] * k + [False] * (200 - k))
    return Result(**{**vars(result), "settings": {"attack": {"label": label}}, "seeds": (0,)})


BASE = Evaluation(
    "base",
    "circle",
    (
        plain("name", 196),
        plain("seen", 190),
        attacked("continuous", 198),
        attacked("discrete", 199),
        attacked("discrete", 197, "asr_last"),
        rate("retain_shape", [True] * 97 + [False] * 3),
        Result("clip_score", 0.51234, n=100, interval=(0.5, 0.525)),
        rate("judge_shape", [True] * 99 + [False]),
    ),
)
ROBUST = Evaluation("advunlearn", "circle", (plain("name", 3), attacked("discrete", 14)))


def cells(table: str) -> list[dict[str, str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_number_is_in_its_column() -> None:
    base, robust = cells(results_table([BASE, ROBUST]))
    assert base == {
        "encoder": "base, seed 0, n = 200",
        "pre-ASR name": "98.0 [95.0, 99.2]",
        "pre-ASR synonyms seen": "95.0 [91.0, 97.3]",
        "ASR continuous, per prompt": "99.0 [96.4, 99.7]",
        "ASR discrete": "99.5 [97.2, 99.9]",
        "ASR discrete, last": "98.5 [95.7, 99.5]",
        "retain shape": "97.0 [91.5, 99.0]",
        "CLIP score": "0.512 [0.500, 0.525]",
    }
    assert robust["encoder"] == "AdvUnlearn, seed 0, n = 200"
    assert robust["ASR discrete"] == "7.0 [4.2, 11.4]"
    assert robust["retain shape"] == robust["CLIP score"] == MISSING


def test_sizes_and_the_judges_own_accuracy_stand_below() -> None:
    table = results_table([BASE, ROBUST])
    assert "n prompts with the concept and 100 without it." in table
    assert "Accuracy of the judge on rendered pictures, in per cent: shape 99.0 [94.6, 99.8]." in table
    assert "kept" not in results_table([ROBUST])
    assert "judge" not in results_table([ROBUST])


def test_concepts_have_tables_of_their_own() -> None:
    striped = Evaluation("base", "striped", (plain("name", 100),))
    table = results_table([BASE, striped, ROBUST])
    assert [line for line in table.splitlines() if line.startswith("###")] == [
        "### circle, suite version 1",
        "### striped, suite version 1",
    ]
    assert table.index("AdvUnlearn") < table.index("### striped")


def test_what_is_retained_has_columns_in_the_order_of_its_first_appearance() -> None:
    """A world of its own has labels of its own; what sums them up has no column here."""
    labels = ("texture", "all", "size", "near", "far")
    found = tuple(rate(f"retain_{label}", [True, False]) for label in labels)
    more = Evaluation("esd", "round", (rate("retain_weight", [True]), *found))
    (head, *_) = (
        line for line in results_table([Evaluation("base", "round", found), more]).splitlines() if "|" in line
    )
    assert [name.strip() for name in head.strip("|").split("|")] == [
        "encoder",
        "retain texture",
        "retain size",
        "retain weight",
    ]


def test_a_result_without_interval_is_a_bare_number() -> None:
    (row,) = cells(results_table([Evaluation("reported", "circle", (Result("retain_shape", 0.5, n=10),))]))
    assert row["retain shape"] == "50.0"


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    BASE.write(tmp_path / "results.json")
    assert tables([tmp_path]) == tables([tmp_path / "results.json"]) == results_table([BASE])


def test_no_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="found none"):
        results_table([])
