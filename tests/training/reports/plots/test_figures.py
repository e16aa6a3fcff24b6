"""Figures: what is drawn stands at the right place, the same input gives the same bytes, settings do not leak."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from PIL import Image
from suite_evaluations import SUITE, suite_evaluation, write_suite

from robust_encoders.training.reports.plots.data import (
    curves_of,
    rates_of,
)
from robust_encoders.training.reports.plots.figures import Curve, Rate, Spot, attack_curves, rate_bars, trade_off
from robust_encoders.training.reports.plots.ranking import Rank, ranking
from robust_encoders.training.reports.plots.style import DARK, LIGHT, Draw, png, svg
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.titles import WORST

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
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.0, 10.0]


def test_a_ranking_marks_what_is_not_to_be_trusted() -> None:
    sound, doubtful = Rate("w", 0.1), Rate("w", 0.4, marked=True)
    marked = Rank("b", doubtful, (Rate("x", 0.2, marked=True), Rate("y", 0.3)))
    (axes,) = ranking([Rank("a", sound), marked])(LIGHT).axes
    assert sorted(text.xy for text in axes.texts if isinstance(text, Annotation)) == [(20.0, 1), (40.0, 1)]
    assert [text.get_text() for text in axes.texts] == ["?", "?"]
    assert "not trusted, see the notes" in axes.get_legend_handles_labels()[1]
    (plain,) = ranking([Rank("a", sound)])(LIGHT).axes
    assert not plain.texts


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one attack curve"):
        attack_curves([])
    with pytest.raises(ValueError, match="expected at least one evaluation with a utility"):
        trade_off([Spot("a", None, (), {})])
    with pytest.raises(ValueError, match="expected at least one row"):
        ranking([])


def test_bars_stand_by_tier_with_the_worst_cases_last_and_failed_checks_are_marked(tmp_path: Path) -> None:
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
