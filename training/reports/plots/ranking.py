"""The figure of a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from ...evaluation.sanity.trust import NOT_TRUSTED
from .figures import MARKERS, Rate
from .style import Draw, Theme, legend, percent, single


@dataclass(frozen=True)
class Rank:
    """One row of a ranking.

    Args:
        label: Name of the row.
        worst: Worst case that ranks the row.
        attacks: Further rates; rates of one label have the same marker.
        reported: True if the numbers are reported by others, not measured.
    """

    label: str
    worst: Rate
    attacks: tuple[Rate, ...] = ()
    reported: bool = False


def ranking(rows: Sequence[Rank]) -> Draw:
    """Return a function that draws one row for each encoder: its worst case, and small markers for further rates.

    A question mark stands above each number that is not to be trusted.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("expected at least one row to rank, found none: name evaluations with a known worst case")
    labels = list(dict.fromkeys(rate.label for row in rows for rate in row.attacks))

    def paint(theme: Theme, axes: Axes) -> None:
        for y, row in enumerate(rows):
            _ranking_row(axes, row, y, labels, theme)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        percent(axes, "x", "success of attacks, %")
        axes.set_xlim(-2, 102)
        _ranking_legend(axes, labels, theme, rows)

    return single(paint, height=1.5 + 0.3 * len(rows) + 0.12 * len(labels), width=6.4)


def _ranking_row(axes: Axes, row: Rank, y: int, labels: Sequence[str], theme: Theme) -> None:
    low, high = row.worst.interval or (row.worst.value, row.worst.value)
    axes.plot([100 * low, 100 * high], [y, y], color=theme.ink, linewidth=1.3)
    fill: dict[str, Any] = {"fillstyle": "none" if row.reported else "full"}
    axes.plot(
        [100 * row.worst.value], [y], "o", color=theme.colours[0], markersize=9, clip_on=False, in_layout=False, **fill
    )
    for rate in (row.worst, *row.attacks):
        if rate.marked:
            axes.annotate(
                "?", (100 * rate.value, y), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom",
                color=theme.ink, annotation_clip=False,
            )  # fmt: skip
    for rate in row.attacks:
        i = labels.index(rate.label) + 1
        look: dict[str, Any] = {"color": theme.colours[i % len(theme.colours)], "fillstyle": "none"}
        mark = MARKERS[i % len(MARKERS)]
        axes.plot([100 * rate.value], [y], mark, markersize=5, clip_on=False, in_layout=False, zorder=4, **look)


def _ranking_legend(axes: Axes, labels: Sequence[str], theme: Theme, rows: Sequence[Rank]) -> None:
    axes.plot([], [], "o", color=theme.colours[0], markersize=9, label="worst case, with 95 % interval")
    if any(row.reported for row in rows):
        axes.plot([], [], "o", color=theme.colours[0], markersize=9, fillstyle="none", label="worst case, reported")
    for i, label in enumerate(labels, start=1):
        colour = theme.colours[i % len(theme.colours)]
        axes.plot([], [], MARKERS[i % len(MARKERS)], color=colour, markersize=5, fillstyle="none", label=label)
    if any(rate.marked for row in rows for rate in (row.worst, *row.attacks)):
        axes.plot(
            [], [], linestyle="none", marker="$?$", color=theme.ink, markersize=6, label=f"{NOT_TRUSTED}, see the notes"
        )
    legend(axes, columns=2)
