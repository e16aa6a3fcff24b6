"""Figures of evaluations: rates with intervals, attack curves, robustness against utility, rankings.

Colours stay apart for colour-blind readers; markers and dashes repeat what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import WIDTH, Draw, Theme, legend, percent, single, styled

_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Rate:
    """A rate with its interval, both in [0, 1].

    Args:
        label: What it is of.
        value: The rate.
        interval: 95 % interval, if there is one.
        bound: Whether the value is only a lower bound.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    bound: bool = False


@dataclass(frozen=True)
class Curve:
    """How many cases an attack had won by when.

    Args:
        label: Of the attack.
        points: Iteration, share of the cases won by then; rising in both, the last one at the end of the attack.
    """

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Spot:
    """One evaluation in a plot of robustness against utility.

    Args:
        label: Of the evaluation.
        worst: Worst case over the attacks by text.
        attacks: One rate for each attack.
        utility: Name of a utility to its value and the bounds of its interval.
    """

    label: str
    worst: Rate | None
    attacks: tuple[Rate, ...]
    utility: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Rank:
    """One row of a ranking.

    Args:
        label: Of the row.
        worst: Its worst case.
        attacks: One rate for each attack.
        reported: Whether others reported the numbers.
    """

    label: str
    worst: Rate
    attacks: tuple[Rate, ...] = ()
    reported: bool = False


def rate_bars(groups: Mapping[str, Sequence[Rate]]) -> Draw:
    """Return what draws one bar for each rate, side by side for each evaluation.

    Args:
        groups: Name of an evaluation to its rates; rates of one label share a row, the first group sets the order.
    """
    labels = list(dict.fromkeys(rate.label for rates in groups.values() for rate in rates))
    thick = 0.8 / max(1, len(groups))

    def paint(theme: Theme, axes: Axes) -> None:
        for i, (name, rates) in enumerate(groups.items()):
            colour = theme.colours[i % len(theme.colours)]
            rows = [labels.index(rate.label) - 0.4 + (i + 0.5) * thick for rate in rates]
            axes.barh(rows, [100 * r.value for r in rates], thick * 0.86, color=colour, label=name, alpha=0.85)
            for row, rate in zip(rows, rates, strict=True):
                _interval(axes, rate, row, theme)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        percent(axes, "x", "success, % of prompts, with 95 % interval")
        axes.set_xlim(0, 124)  # room for the numbers
        if len(groups) > 1:
            legend(axes, columns=1)

    below = 0.25 * len(groups) if len(groups) > 1 else 0
    return single(paint, height=max(1.6, 0.9 + max(0.3, 0.22 * len(groups)) * len(labels)) + below)


def _interval(axes: Axes, rate: Rate, row: float, theme: Theme) -> None:
    """Draw a horizontal interval, and the number to the right of all of it."""
    end = 100 * rate.value
    if rate.interval is not None:
        low, high = (100 * bound for bound in rate.interval)
        axes.plot([low, high], [row, row], color=theme.ink, linewidth=1.3)
        axes.plot([low, high], [row, row], "|", color=theme.ink, markersize=5)
        end = max(end, high)
    text = f"{'≥ ' if rate.bound else ''}{100 * rate.value:.1f}"
    axes.text(end + 1.5, row, text, va="center", fontsize=9)


def attack_curves(curves: Sequence[Curve]) -> Draw:
    """Return what draws the share of cases won over the iterations of each attack.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("expected at least one attack curve, found none: an evaluation without cells has none")

    def paint(theme: Theme, axes: Axes) -> None:
        for i, curve in enumerate(curves):
            xs, ys = zip(*curve.points, strict=True)
            axes.step(
                xs,
                [100 * y for y in ys],
                where="post",
                label=curve.label,
                color=theme.colours[i % len(theme.colours)],
                linestyle=_DASHES[i % len(_DASHES)],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=4.5,
                clip_on=False,
                in_layout=False,
                zorder=3,
            )
        percent(axes, "y", "prompts won so far, %")
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.set_xlabel("iterations of the attack")
        legend(axes, columns=2)

    return single(paint, height=3.0 + 0.12 * len(curves))


def trade_off(spots: Sequence[Spot]) -> Draw:
    """Return what draws rates of success against every utility that some spot has.

    Raises:
        ValueError: If no spot has a utility.
    """
    names = list(dict.fromkeys(name for spot in spots for name in spot.utility))
    if not names:
        raise ValueError("expected at least one evaluation with a utility (retain, CLIP score), found none")

    def draw(theme: Theme) -> Figure:
        with styled(theme):
            figure = Figure(figsize=(WIDTH, 3.1 + 0.2 * len(spots)), layout="constrained")
            panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
            for axes, name in zip(panels, names, strict=True):
                _trade_off_panel(axes, spots, name, theme)
            percent(panels[0], "y", "success of attacks, %")
            panels[0].set_ylim(-4, 104)
            legend(panels[0], columns=1, title="large: worst case of texts; small: each attack")
            return figure

    return draw


def _trade_off_panel(axes: Axes, spots: Sequence[Spot], name: str, theme: Theme) -> None:
    for i, spot in enumerate(spots):
        if name in spot.utility:
            look = {"color": theme.colours[i % len(theme.colours)], "marker": _MARKERS[i % len(_MARKERS)]}
            _spot(axes, spot, spot.utility[name], look)
    axes.set_xlabel(name)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.15)
    axes.locator_params(axis="x", nbins=3)


def _spot(axes: Axes, spot: Spot, utility: tuple[float, float, float], look: Mapping[str, Any]) -> None:
    x, *bounds = utility
    ys = [100 * rate.value for rate in spot.attacks]
    axes.plot(
        [x] * len(ys),
        ys,
        linestyle="none",
        markersize=4,
        fillstyle="none",
        clip_on=False,
        in_layout=False,
        zorder=4,
        **look,
    )
    if spot.worst is not None:
        y = 100 * spot.worst.value
        low, high = spot.worst.interval or (spot.worst.value, spot.worst.value)
        axes.plot([x, x], [100 * low, 100 * high], color=look["color"], linewidth=1.3)
        axes.plot(bounds, [y, y], color=look["color"], linewidth=1.3)
        axes.plot(
            [x],
            [y],
            linestyle="none",
            markersize=8,
            label=spot.label,
            clip_on=False,
            in_layout=False,
            alpha=0.8,
            **look,
        )


def ranking(rows: Sequence[Rank]) -> Draw:
    """Return what draws one row for each encoder: its worst case, and small marks for each attack.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("expected at least one row to rank, found none")
    labels = list(dict.fromkeys(rate.label for row in rows for rate in row.attacks))

    def paint(theme: Theme, axes: Axes) -> None:
        for y, row in enumerate(rows):
            _ranking_row(axes, row, y, labels, theme)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        percent(axes, "x", "success of attacks, %")
        axes.set_xlim(-2, 102)
        _ranking_legend(axes, labels, theme, reported=any(row.reported for row in rows))

    return single(paint, height=1.5 + 0.3 * len(rows) + 0.12 * len(labels), width=6.4)


def _ranking_row(axes: Axes, row: Rank, y: int, labels: Sequence[str], theme: Theme) -> None:
    low, high = row.worst.interval or (row.worst.value, row.worst.value)
    axes.plot([100 * low, 100 * high], [y, y], color=theme.ink, linewidth=1.3)
    fill: dict[str, Any] = {"fillstyle": "none" if row.reported else "full"}
    axes.plot(
        [100 * row.worst.value], [y], "o", color=theme.colours[0], markersize=9, clip_on=False, in_layout=False, **fill
    )
    for rate in row.attacks:
        i = labels.index(rate.label) + 1
        look: dict[str, Any] = {"color": theme.colours[i % len(theme.colours)], "fillstyle": "none"}
        mark = _MARKERS[i % len(_MARKERS)]
        axes.plot([100 * rate.value], [y], mark, markersize=5, clip_on=False, in_layout=False, zorder=4, **look)


def _ranking_legend(axes: Axes, labels: Sequence[str], theme: Theme, *, reported: bool) -> None:
    axes.plot([], [], "o", color=theme.colours[0], markersize=9, label="worst case, with 95 % interval")
    if reported:
        axes.plot([], [], "o", color=theme.colours[0], markersize=9, fillstyle="none", label="worst case, reported")
    for i, label in enumerate(labels, start=1):
        colour = theme.colours[i % len(theme.colours)]
        axes.plot([], [], _MARKERS[i % len(_MARKERS)], color=colour, markersize=5, fillstyle="none", label=label)
    legend(axes, columns=2)
