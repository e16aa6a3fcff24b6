"""Figures of evaluations: rates with intervals, attack curves, robustness against utility.

Colours can be told apart by colour-blind readers. Markers and dashes repeat the same distinction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import WIDTH, Draw, Theme, legend, percent, single, styled

MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")
_LEGIBLE = 5  # largest number of curves in one panel


@dataclass(frozen=True)
class Rate:
    """A rate with its interval, both in [0, 1].

    Args:
        label: Name of the row of bars.
        value: Rate of success.
        interval: 95 % interval, if there is one.
        bound: True if the value is only a lower bound.
        marked: True if a check on the attack failed.
        group: Name of a group; bars of one group stand together, with a line between groups.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    bound: bool = False
    marked: bool = False
    group: str = ""


@dataclass(frozen=True)
class Curve:
    """The share of cases that an attack had won after each iteration.

    Args:
        label: Name of the attack.
        points: Pairs of an iteration and the share of cases won by then, both rising; the last is the attack's end.
        group: Name of a group; if there are too many curves for one panel, each group has its own.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    group: str = ""


@dataclass(frozen=True)
class Spot:
    """One evaluation in a plot of robustness against utility.

    Args:
        label: Name of the evaluation.
        worst: Worst case over the attacks by text.
        attacks: Rate of each attack.
        utility: Name of a utility to its value and the bounds of its interval.
    """

    label: str
    worst: Rate | None
    attacks: tuple[Rate, ...]
    utility: Mapping[str, tuple[float, float, float]]


def rate_bars(groups: Mapping[str, Sequence[Rate]]) -> Draw:
    """Return a function that draws one bar for each rate, with the evaluations side by side.

    A question mark stands beside a number whose check failed.

    Args:
        groups: Name of an evaluation to its rates. Rates of one label share a row, and rates of one group stand
            together. Rows keep their order as far as all evaluations agree on it.
    """
    rates = [rate for rows in groups.values() for rate in rows]
    kinds = list(dict.fromkeys(rate.group for rate in sorted(rates, key=lambda rate: _place(rate.group))))
    labels = list(dict.fromkeys(rate.label for kind in kinds for rate in rates if rate.group == kind))
    of = {rate.label: rate.group for rate in rates}
    ends = [row for row in range(1, len(labels)) if of[labels[row]] != of[labels[row - 1]]]
    thick = 0.8 / max(1, len(groups))

    def paint(theme: Theme, axes: Axes) -> None:
        for i, (name, shown) in enumerate(groups.items()):
            colour = theme.colours[i % len(theme.colours)]
            rows = [labels.index(rate.label) - 0.4 + (i + 0.5) * thick for rate in shown]
            axes.barh(rows, [100 * r.value for r in shown], thick * 0.86, color=colour, label=name, alpha=0.85)
            for row, rate in zip(rows, shown, strict=True):
                _interval(axes, rate, row, theme)
        for row in ends:
            axes.axhline(row - 0.5, color=theme.faint, linewidth=0.9)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        percent(axes, "x", "success, %, with 95 % interval")
        axes.set_xlim(0, 124)  # room for the numbers
        if len(groups) > 1:
            legend(axes, columns=1)

    below = 0.25 * len(groups) if len(groups) > 1 else 0
    return single(paint, height=max(1.6, 0.9 + max(0.26, 0.17 * len(groups)) * len(labels)) + below)


def _place(group: str) -> tuple[int, str]:
    """Return the sort key of a group of bars: unattacked prompts first, then tiers, then worst cases."""
    return {"plain": 0, "worst": 2}.get(group, 1), group


def _interval(axes: Axes, rate: Rate, row: float, theme: Theme) -> None:
    """Draw a horizontal interval, and the number to its right."""
    end = 100 * rate.value
    if rate.interval is not None:
        low, high = (100 * bound for bound in rate.interval)
        axes.plot([low, high], [row, row], color=theme.ink, linewidth=1.3)
        axes.plot([low, high], [row, row], "|", color=theme.ink, markersize=5)
        end = max(end, high)
    text = f"{'≥ ' if rate.bound else ''}{100 * rate.value:.1f}{' ?' if rate.marked else ''}"
    axes.text(end + 1.5, row, text, va="center", fontsize=9)


def attack_curves(curves: Sequence[Curve]) -> Draw:
    """Return a function that draws the share of cases won over the iterations of each attack.

    If there are too many curves for one panel, each group has its own. The iterations then have a symmetric log scale,
    on which ten and three thousand can both be read.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError(
            "expected at least one attack curve, found none: an evaluation without verdicts has none; evaluate again"
        )
    if len(curves) <= _LEGIBLE:
        return single(partial(_curve_panel, curves), height=3.0 + 0.12 * len(curves))
    groups = list(dict.fromkeys(curve.group for curve in curves))

    def draw(theme: Theme) -> Figure:
        with styled(theme):
            figure = Figure(figsize=(WIDTH, 2.9 * len(groups)), layout="constrained")
            for axes, group in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups, strict=True):
                _curve_panel([curve for curve in curves if curve.group == group], theme, axes, title=group)
            return figure

    return draw


def _curve_panel(curves: Sequence[Curve], theme: Theme, axes: Axes, *, title: str = "") -> None:
    for i, curve in enumerate(curves):
        xs, ys = zip(*curve.points, strict=True)
        axes.step(
            xs,
            [100 * y for y in ys],
            where="post",
            label=curve.label,
            color=theme.colours[i % len(theme.colours)],
            linestyle=_DASHES[i % len(_DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            clip_on=False,
            in_layout=False,
            zorder=3,
        )
    percent(axes, "y", "prompts won so far, %")
    axes.set_ylim(0, 100)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xscale("symlog", linthresh=10, linscale=0.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(ncols=2, loc="upper left", bbox_to_anchor=(0, -0.24), borderaxespad=0)
    else:
        legend(axes, columns=2)
    axes.set_xlim(left=0)
    axes.set_xlabel("iterations of the attack")


def trade_off(spots: Sequence[Spot]) -> Draw:
    """Return a function that draws rates of success against every utility of the spots.

    Raises:
        ValueError: If no spot has a utility.
    """
    names = list(dict.fromkeys(name for spot in spots for name in spot.utility))
    if not names:
        raise ValueError(
            "expected at least one evaluation with a utility (retain, CLIP score), found none: evaluate kept prompts"
        )

    def draw(theme: Theme) -> Figure:
        with styled(theme):
            figure = Figure(figsize=(WIDTH, 3.1 + 0.2 * len(spots)), layout="constrained")
            panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
            for axes, name in zip(panels, names, strict=True):
                _trade_off_panel(axes, spots, name, theme)
            percent(panels[0], "y", "success of attacks, %")
            panels[0].set_ylim(-4, 104)
            legend(panels[0], columns=1, title="large: worst case by text; small: attacks, T0 to T4")
            return figure

    return draw


def _trade_off_panel(axes: Axes, spots: Sequence[Spot], name: str, theme: Theme) -> None:
    for i, spot in enumerate(spots):
        if name in spot.utility:
            look = {"color": theme.colours[i % len(theme.colours)], "marker": MARKERS[i % len(MARKERS)]}
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
