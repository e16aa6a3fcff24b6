"""The matrix: every attack in its row, weakest tier first, marked where a check failed; earlier results as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import write_evaluation
from suite_evaluations import SUITE, N, checks, suite_evaluation

from robust_encoders.cli.main import main
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.matrix import matrix_table, short, tables
from robust_encoders.training.reports.paired import paired_tables
from robust_encoders.training.reports.results_table import results_table
from robust_encoders.training.reports.tables import MISSING

BASE = suite_evaluation("base", strength=2)[0]
ESD = suite_evaluation("esd")[0]
LABELS = ("base", "esd")


def rows(part: str) -> list[list[str]]:
    """Return the cells of the Markdown table in a part of a text, head first."""
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def parts(text: str) -> dict[str, list[list[str]]]:
    main_part, *others = text.split("\n#### ")
    return {"": rows(main_part)} | {other.partition("\n")[0]: rows(other) for other in others}


def test_every_attack_has_a_row_in_the_order_of_the_tiers_and_the_worst_cases_are_last() -> None:
    head, *found = parts(matrix_table([BASE, ESD]))[""]
    assert head == ["tier", "attack", "base, seed 3, n = 40", "ESD, seed 3, n = 40"]
    tiers = [row[0] for row in found]
    assert tiers == [*sorted(tiers[:-2]), "T0-T3", "T0-T4"]
    attacks = [row[1] for row in found if row[1] in SUITE]
    assert attacks == [label for label, (tier, *_) in SUITE.items() if tier <= "T4"]
    by_label = {row[1]: row[2:] for row in found}
    assert by_label["black_box"] == ["80.0 [65.2, 89.5]", "40.0 [26.3, 55.4]"]
    assert by_label["no attack: name"] == by_label["none"] == ["5.0 [1.4, 16.5]"] * 2


def test_the_worst_case_is_the_recorded_one() -> None:
    (result,) = (r for r in ESD.results if r.metric == "worst_case")
    row = next(row for row in parts(matrix_table([ESD]))[""] if row[0] == "T0-T3")
    assert row[2].startswith(f"{100 * result.value:.1f} [")
    assert "≥" not in row[2]


def test_limits_of_scope_stand_apart() -> None:
    _, *found = parts(matrix_table([ESD]))["Limits of scope"]
    assert [row[:2] for row in found] == [[tier, label] for label, (tier, *_) in SUITE.items() if tier > "T4"]


def test_costs_say_what_was_gained_over_none_and_what_it_took() -> None:
    _, *found = parts(matrix_table([ESD]))["Gain and cost of the attacks"]
    assert len(found) == len(SUITE)
    assert found[0] == ["T0", "none", f"0.0 / {N} / 1.23M / 100"]
    assert found[6] == ["T3", "discrete", f"45.0 / {N} / 1.23M / 202"]


def test_utility_has_metrics_for_rows_and_distances_are_no_per_cent() -> None:
    other = replace(ESD, label="advunlearn", results=tuple(r for r in ESD.results if r.metric != "fid"))
    head, *found = parts(matrix_table([ESD, other]))["Utility"]
    values = {row[0]: row[1:] for row in found}
    assert len(head) == 3
    assert values["FID of kept pictures"] == ["12.35", MISSING]
    assert values["KID of kept pictures"] == ["0.0012", "0.0012"]
    assert values["LPIPS, erased less kept (higher is better)"] == ["0.300 [0.250, 0.350]"] * 2
    assert values["all as asked, %"][0] == "86.0 [77.9, 91.5]"
    assert "concept recognised in renders of it, %" in values


def test_a_number_whose_attack_failed_a_check_is_marked_in_words_with_the_reason_below() -> None:
    text = matrix_table([BASE, replace(ESD, checks=checks(("gradients_alive", "")))])
    by_label = {row[1]: row[2:] for row in parts(text)[""]}
    assert by_label["p4d"][0].endswith(", not trusted ²")
    assert by_label["p4d"][1].endswith(", not trusted ¹ ²")
    assert by_label["continuous"][1].endswith(", not trusted ¹")
    assert "not trusted" not in by_label["random"][1]  # a check that does not decide
    assert "\n- ² p4d wins 41.0 % of 200 on the base, less than 90.0 %." in text
    assert "\n\n- ¹ Gradients of the loss reach" in text


def test_single_detectors_have_a_table_of_their_own_if_there_are_several() -> None:
    singles = {
        "geometry": {"value": 0.75, "n": N, "interval": [0.6, 0.86]},
        "judge": {"value": 0.8, "n": N, "interval": None},
    }
    results = tuple(
        replace(r, settings={**r.settings, "singles": singles})
        if r.metric == "asr_any" and r.settings["attack"]["label"] == "discrete"
        else r
        for r in ESD.results
    )
    found = parts(matrix_table([BASE, replace(ESD, results=results)]))
    _, line = found["Single detectors"]
    assert line == ["T3", "discrete", MISSING, "geometry 75.0 [60.0, 86.0]; judge 80.0"]
    assert "Single detectors" not in parts(matrix_table([BASE, ESD]))
    assert found[""] == parts(matrix_table([BASE, ESD]))[""]


def test_what_an_evaluation_lacks_is_a_dash() -> None:
    few = suite_evaluation("advunlearn", labels=("none", "discrete"))[0]
    found = {row[1]: row[2:] for row in parts(matrix_table([ESD, few]))[""]}
    assert found["p4d"][1] == MISSING
    assert found["discrete"][1] != MISSING


def test_concepts_have_tables_of_their_own() -> None:
    text = matrix_table([ESD, suite_evaluation("esd", concept="striped")[0]])
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### circle, suite version 1",
        "### striped, suite version 1",
    ]


def test_earlier_evaluations_print_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_evaluation(tmp_path / name, {"discrete": ("T3", [20, None, 40, None])}, name) for name in LABELS]
    expected = results_table([Evaluation.read(folder) for folder in folders])
    assert tables(folders) == expected
    assert main(["results", *map(str, folders)]) == 0
    assert capsys.readouterr().out.strip() == f"{expected}\n{paired_tables(folders)}".strip()


def test_one_with_a_worst_case_makes_it_a_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ESD.write(tmp_path / "results.json")
    earlier = replace(ESD, results=tuple(r for r in ESD.results if not r.metric.startswith("worst_")), checks=())
    assert main(["results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == matrix_table([ESD]).strip()
    worst = {row[0]: row[2:] for row in parts(tables([ESD, earlier]))[""]}["T0-T3"]
    assert worst[1] == "≥ 50.0"  # of the earlier one only the strongest attack is known


def test_no_evaluation_is_refused() -> None:
    for table in (tables, matrix_table):
        with pytest.raises(ValueError, match="found none"):
            table([])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23k"), (999_600, "1M"), (45_678_901, "45.7M"), (2e9, "2G")]
)
def test_large_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_suite_without_worst_case_is_an_evaluation_of_the_earlier_kind() -> None:
    assert tables([Evaluation("esd", "circle", ())]) == results_table([Evaluation("esd", "circle", ())])
