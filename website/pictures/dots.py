"""Charts of numbers with intervals in rows, in the look of the reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from robust_encoders.training.reports.plots.figures import MARKERS
from robust_encoders.training.reports.plots.style import Draw, Theme, legend, percent, single


@dataclass(frozen=True)
class Dot:
    """A number with its interval.

    Args:
        row: Name of its row.
        group: Name of its colour and marker.
        value: Number.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    row: str
    group: str
    value: float
    low: float
    high: float


def dots(found: Sequence[Dot], title: str, *, groups: Sequence[str], log: bool = False) -> Draw:
    """Return a function that draws numbers in rows, those of one row below each other.

    Args:
        found: Numbers; rows stand in the order in which they occur, and numbers of a row in that of their groups.
        title: Lines above the chart.
        groups: Names in the order of their colours.
        log: True for numbers on a scale of powers of ten, false for rates.
    """
    places: dict[str, list[Dot]] = defaultdict(list)
    for dot in found:
        places[dot.row].append(dot)
    chart = _Dots(places, title, groups, log)
    return single(chart.paint, height=1.2 + 0.17 * sum(chart.lines(row) for row in places) + 0.14 * len(places))


@dataclass(frozen=True)
class _Dots:
    """One chart: rows of numbers, the lines above it, the names of the colours, and the kind of its scale."""

    places: Mapping[str, Sequence[Dot]]
    title: str
    groups: Sequence[str]
    log: bool

    def lines(self, row: str) -> int:
        """Return the height of a row, in numbers or lines of its name."""
        return max(len(self.places[row]), 1 + row.count("\n"))

    def paint(self, theme: Theme, axes: Axes) -> None:
        """Draw the chart."""
        y, ticks = 0.0, []
        for row, members in self.places.items():
            middle = y + (self.lines(row) - 1) / 2
            ticks.append((middle, row))
            for place, dot in enumerate(sorted(members, key=lambda dot: self.groups.index(dot.group))):
                self._number(theme, axes, dot, middle + place - (len(members) - 1) / 2)
            y += self.lines(row) - 0.1
            axes.axhline(y, color=theme.faint, linewidth=0.6)
            y += 0.9
        axes.set_yticks([place for place, _ in ticks], [row for _, row in ticks])
        axes.set_ylim(y - 0.9, -0.9)
        axes.tick_params(axis="y", length=0)
        self._scale(axes)
        self._names(theme, axes)

    def _number(self, theme: Theme, axes: Axes, dot: Dot, y: float) -> None:
        place, scale = self.groups.index(dot.group), 1 if self.log else 100
        look: dict[str, Any] = {"color": theme.colours[place], "clip_on": False, "zorder": 3}
        axes.plot([scale * dot.low, scale * dot.high], [y, y], linewidth=1.4, **look)
        axes.plot([scale * dot.value], [y], linestyle="none", marker=MARKERS[place], markersize=5, **look)

    def _scale(self, axes: Axes) -> None:
        if self.log:
            axes.set_xscale("log")
            axes.set_xlim(1_000, 1_000_000)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.minorticks_off()
            axes.grid(visible=False, axis="y")
        else:
            percent(axes, "x", "%")
            axes.set_xlim(-2, 102)

    def _names(self, theme: Theme, axes: Axes) -> None:
        used = {dot.group for members in self.places.values() for dot in members}
        for place, name in enumerate(self.groups):
            if name not in used:
                continue
            axes.plot([], [], linestyle="none", marker=MARKERS[place], color=theme.colours[place], label=name)
        legend(axes, columns=len(self.groups))
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.suptitle(self.title, x=0.01, horizontalalignment="left", fontsize=10)
