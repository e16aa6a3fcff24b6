"""Figures: what is drawn stands at the right place, the same input gives the same bytes, settings do not leak."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from evaluations import Attacks, verdict, write_evaluation
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from PIL import Image
from suite_evaluations import SUITE, checks, suite_evaluation, write_suite

from robust_encoders.training.evaluation.results import RESULTS_NAME
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.reports.plots.data import (
    budget_of,
    curve_points,
    curves_of,
    rates_of,
    spot_of,
)
from robust_encoders.training.reports.plots.figures import Curve, Rate, Spot, attack_curves, rate_bars, trade_off
from robust_encoders.training.reports.plots.ranking import Rank, ranking
from robust_encoders.training.reports.plots.style import DARK, LIGHT, Draw, png, svg
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.titles import WORST, short_title

BARS = rate_bars({"a": [Rate("none", 0.0, (0.0, 0.1)), Rate("worst", 0.5, bound=True)], "b": [Rate("none", 1.0)]})
CURVES = attack_curves([Curve("discrete", ((0, 0.0), (20, 0.25), (200, 0.5))), Curve("random", ((0, 0.0), (10, 0.0)))])
TRADE = trade_off([Spot("a", Rate("w", 0.1, (0.0, 0.2)), (Rate("x", 0.05),), {"retain, %": (96.0, 94.0, 98.0)})])
RANKING = ranking([Rank("a", Rate("w", 0.1, (0.0, 0.2)), (Rate("x", 0.05),)), Rank("b", Rate("w", 0.3), (), True)])
ALL = [BARS, CURVES, TRADE, RANKING]


@pytest.mark.parametrize("draw", ALL)
def test_the_same_input_gives_the_same_bytes_whatever_the_user_has_set(draw: Draw) -> None:
    first = png(draw), svg(draw, DARK)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "other", "savefig.dpi": 20}):
        before = dict(matplotlib.rcParams)
        assert (png(draw), svg(draw, DARK)) == first
        assert dict(matplotlib.rcParams) == before
    assert png(draw, DARK) != first[0]


@pytest.mark.parametrize("draw", ALL)
def test_nothing_is_cut_off_at_the_edges(draw: Draw) -> None:
    image = Image.open(io.BytesIO(png(draw))).convert("RGB")
    paper = image.getpixel((0, 0))
    edges = [image.crop(box) for box in ((0, 0, image.width, 2), (0, 0, 2, image.height))]
    assert all(edge.getcolors() == [(edge.width * edge.height, paper)] for edge in edges)
    assert len(image.getcolors(1 << 20) or []) > 20


def test_bars_and_their_intervals_stand_where_the_numbers_say() -> None:
    (axes,) = BARS(LIGHT).axes
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert widths == [0.0, 50.0, 100.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "worst"]
    assert [text.get_text() for text in axes.texts] == ["0.0", "≥ 50.0", "100.0"]
    assert list(axes.lines[0].get_xdata()) == [0.0, 10.0]


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one attack curve"):
        attack_curves([])
    with pytest.raises(ValueError, match="expected at least one evaluation with a utility"):
        trade_off([Spot("a", None, (), {})])
    with pytest.raises(ValueError, match="expected at least one row"):
        ranking([])


def test_a_curve_counts_what_was_won_by_each_iteration() -> None:
    verdicts = [verdict(0, 0), verdict(1, 20), verdict(2, 20), verdict(3, None)]
    assert curve_points(verdicts, 60) == ((0, 0.25), (20, 0.75), (60, 0.75))
    assert curve_points([verdict(0, None)], 0) == ((0, 0.0),)


def test_the_worst_case_is_the_union_over_the_attacks_by_text(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, None, None, None]), "b": ("T2", [None, 1, None, None]), "c": ("T4", [5] * 4)}
    worst = StoredEvaluation.read(write_evaluation(tmp_path, steps)).worst_case
    assert worst is not None
    assert (worst.value, worst.n, worst.labels, worst.exact) == (0.5, 4, ("b", "a"), True)
    assert worst.interval == wilson_interval(2, 4)


def test_without_its_cells_the_worst_case_is_a_bound(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, 20, None, None]), "b": ("T2", [None, None, 1, None])}
    folder = write_evaluation(tmp_path, steps)
    (folder / "cells" / "attack-b.json").unlink()
    stored = StoredEvaluation.read(folder / RESULTS_NAME)
    assert set(stored.verdicts) == {"a"}
    assert stored.worst_case is not None
    assert (stored.worst_case.value, stored.worst_case.exact) == (0.5, False)
    assert rates_of(stored)[-1].bound


def test_cells_of_other_numbers_are_left_out(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, {"a": ("T3", [20, None, None, None])})
    other = write_evaluation(tmp_path / "other", {"a": ("T3", [20, 20, None, None])})
    (other / "cells" / "attack-a.json").replace(folder / "cells" / "attack-a.json")
    assert StoredEvaluation.read(folder).verdicts == {}


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


def test_the_recorded_worst_case_needs_no_cells(tmp_path: Path) -> None:
    with_cells, alone = (
        StoredEvaluation.read(write_suite(tmp_path / str(cells), cells=cells)) for cells in (True, False)
    )
    assert alone.verdicts == {}
    for one in (with_cells, alone):
        assert one.worst_case == with_cells.recorded("worst_case")
        assert one.worst_case is not None
        assert one.worst_case.exact
        assert one.worst_case.labels == tuple(label for label, (tier, *_) in SUITE.items() if tier <= "T3")
        assert one.worst_case_embeddings is not None
        assert one.worst_case_embeddings.value >= one.worst_case.value


def test_the_recorded_worst_case_is_the_one_that_cells_give(tmp_path: Path) -> None:
    stored = StoredEvaluation.read(write_suite(tmp_path))
    bare = [r for r in stored.evaluation.results if not r.metric.startswith("worst_")]
    counted = replace(stored, evaluation=replace(stored.evaluation, results=tuple(bare)))
    assert counted.recorded("worst_case") is None
    assert counted.worst_case == stored.worst_case
    assert counted.worst_case_embeddings == stored.worst_case_embeddings


def test_bars_stand_by_tier_with_the_worst_cases_last_and_doubts_are_marked(tmp_path: Path) -> None:
    stored = StoredEvaluation.read(write_suite(tmp_path))
    rates = rates_of(stored)
    tiers = [rate.group for rate in rates]
    assert tiers == ["plain"] * 3 + sorted(tiers[3:-2]) + ["worst"] * 2
    assert [rate.label for rate in rates if rate.marked] == ["p4d T3"]
    (axes,) = rate_bars({"a": rates})(LIGHT).axes
    assert [text.get_text() for text in axes.texts if "?" in text.get_text()] == ["15.0 ?"]


def test_bars_keep_to_the_order_of_the_tiers_although_an_evaluation_lacks_some() -> None:
    few, every = (StoredEvaluation(suite_evaluation(labels=names)[0]) for names in (("none", "p4d"), tuple(SUITE)))
    (axes,) = rate_bars({"few": rates_of(few), "every": rates_of(every)})(LIGHT).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    tiers = [label.rpartition(" ")[2] for label in labels[3:-2]]
    assert tiers == sorted(tiers)
    assert labels[-2] == WORST


def test_only_attacks_that_go_on_for_some_time_have_curves_and_too_many_have_a_panel_for_each_tier(
    tmp_path: Path,
) -> None:
    curves = curves_of(StoredEvaluation.read(write_suite(tmp_path)))
    assert {curve.label.rpartition(" ")[2] for curve in curves} == {"T2", "T3", "T4"}
    panels = attack_curves(curves)(LIGHT).axes
    assert [axes.get_title(loc="left")[:2] for axes in panels] == ["T2", "T3", "T4"]
    assert [len(axes.get_lines()) for axes in panels] == [4, 2, 4]
    assert len(attack_curves(curves[:5])(LIGHT).axes) == 1


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


@pytest.mark.parametrize("width", [3, 1])
def test_a_whole_suite_fits_its_figures(tmp_path: Path, width: int) -> None:
    """No label leaves the paper: neither at the edges nor, as text, outside of the figure."""
    groups = {f"evaluation {i}": rates_of(StoredEvaluation(suite_evaluation(strength=1 + i)[0])) for i in range(width)}
    for draw in (rate_bars(groups), attack_curves(curves_of(StoredEvaluation.read(write_suite(tmp_path))))):
        figure = draw(LIGHT)
        FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]  # matplotlib has no type for it
        for axes in figure.axes:
            texts = [axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels(), *axes.texts]
            boxes = [text.get_window_extent() for text in texts if text.get_text()]
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)


def test_limits_of_scope_are_no_mark_of_robustness_against_utility() -> None:
    stored = StoredEvaluation(suite_evaluation(checks=checks(("gradients_alive", "")))[0])
    spot = spot_of(stored)
    assert {rate.group for rate in spot.attacks} == {"T0", "T1", "T2", "T3", "T4"}
    assert spot.worst is not None
    assert spot.worst.marked
