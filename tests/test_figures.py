"""Figures: what is drawn stands at the right place, the same input gives the same bytes, settings do not leak."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import pytest
from evaluations import Attacks, verdict, write_evaluation
from matplotlib.patches import Rectangle
from PIL import Image

from robust_encoders.training.charts import curve_points, curves_of, rates_of, short_title, spot_of
from robust_encoders.training.drawing import DARK, LIGHT, Draw, png, svg
from robust_encoders.training.figures import Curve, Rate, Spot, attack_curves, rate_bars, trade_off
from robust_encoders.training.finished import Finished
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.ranking import Rank, ranking
from robust_encoders.training.results import RESULTS_NAME

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
    worst = Finished.read(write_evaluation(tmp_path, steps)).worst_case
    assert worst is not None
    assert (worst.value, worst.n, worst.labels, worst.exact) == (0.5, 4, ("b", "a"), True)
    assert worst.interval == wilson_interval(2, 4)


def test_without_its_cells_the_worst_case_is_a_bound(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, 20, None, None]), "b": ("T2", [None, None, 1, None])}
    folder = write_evaluation(tmp_path, steps)
    (folder / "cells" / "attack-b.json").unlink()
    finished = Finished.read(folder / RESULTS_NAME)
    assert set(finished.verdicts) == {"a"}
    assert finished.worst_case is not None
    assert (finished.worst_case.value, finished.worst_case.exact) == (0.5, False)
    assert rates_of(finished)[-1].bound


def test_cells_of_other_numbers_are_left_out(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, {"a": ("T3", [20, None, None, None])})
    other = write_evaluation(tmp_path / "other", {"a": ("T3", [20, 20, None, None])})
    (other / "cells" / "attack-a.json").replace(folder / "cells" / "attack-a.json")
    assert Finished.read(folder).verdicts == {}


def test_charts_show_what_the_evaluation_found(tmp_path: Path) -> None:
    finished = Finished.read(write_evaluation(tmp_path, {"a": ("T3", [20, None, None, 40]), "c": ("T4", [5] * 4)}))
    assert short_title(finished) == "ESD, seed 3"
    assert [(r.label, r.value) for r in rates_of(finished)] == [
        ("no attack: name", 0),
        ("a T3", 0.5),
        ("c T4", 1),
        ("worst case, T0-T4", 1),
    ]
    assert [c.label for c in curves_of(finished)] == ["a T3", "c T4"]
    assert curves_of(finished)[0].points == ((0, 0), (20, 0.25), (40, 0.5))
    spot = spot_of(finished)
    assert spot.worst is not None
    assert spot.worst.value == 0.5
    assert spot.utility["retain, %"][0] == 90
    assert spot.utility["CLIP score"] == (0.5, 0.4, 0.6)
