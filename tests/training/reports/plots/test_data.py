"""What figures draw of an evaluation: its rates, its curves and its place between robustness and utility."""

from __future__ import annotations

from pathlib import Path

from evaluations import verdict, write_evaluation
from suite_evaluations import SUITE, checks, suite_evaluation

from robust_encoders.training.reports.plots.data import budget_of, curve_points, curves_of, rates_of, spot_of
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.titles import short_title


def test_a_curve_counts_what_was_won_by_each_iteration() -> None:
    verdicts = [verdict(0, 0), verdict(1, 20), verdict(2, 20), verdict(3, None)]
    assert curve_points(verdicts, 60) == ((0, 0.25), (20, 0.75), (60, 0.75))
    assert curve_points([verdict(0, None)], 0) == ((0, 0.0),)


def test_charts_show_what_the_evaluation_found(tmp_path: Path) -> None:
    stored = StoredEvaluation.read(
        write_evaluation(tmp_path, {"a": ("T3", [20, None, None, 40]), "c": ("T4", [5] * 4)})
    )
    assert short_title(stored.evaluation) == "ESD, seed 3"
    assert [(r.label, r.value) for r in rates_of(stored)] == [
        ("no attack: name", 0),
        ("a T3", 0.5),
        ("c T4", 1),
        ("worst case, T0-T4", 1),
    ]
    assert [c.label for c in curves_of(stored)] == ["a T3", "c T4"]
    assert curves_of(stored)[0].points == ((0, 0), (20, 0.25), (40, 0.5))
    spot = spot_of(stored)
    assert spot.worst is not None
    assert spot.worst.value == 0.5
    assert spot.utility["retain, %"][0] == 90
    assert spot.utility["CLIP score"] == (0.5, 0.4, 0.6)


def test_budgets_are_what_the_candidates_count() -> None:
    found = {label: budget_of({"name": name, **settings}) for label, (_, name, settings, _) in SUITE.items()}
    assert {label: budget for label, budget in found.items() if budget} == {
        "random": 10,
        "ring_a_bell": 200,
        "black_box": 40,
        "discrete": 200,
        "p4d": 3000,
        "continuous": 100,
        "shared": 200,
        "inversion": 300,
        "torchattack": 10,
    }


def test_limits_of_scope_are_no_mark_of_robustness_against_utility() -> None:
    stored = StoredEvaluation(suite_evaluation(checks=checks(("gradients_alive", "")))[0])
    spot = spot_of(stored)
    assert {rate.group for rate in spot.attacks} == {"T0", "T1", "T2", "T3", "T4"}
    assert spot.worst is not None
    assert spot.worst.marked
