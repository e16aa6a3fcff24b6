"""Style and files of figures: without pyplot or the user's settings, with the same bytes for the same input.

The colours are those of Okabe and Ito (2008), and lighter on a dark background.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 4.6  # inches, as wide as a telephone, so that figures need not shrink
_DPI = 200


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Args:
        ink: Colour of text and axes.
        faint: Colour of the grid.
        paper: Colour of the background.
        colours: Colours of the data, in the order of use.
    """

    ink: str
    faint: str
    paper: str
    colours: tuple[str, ...]


LIGHT = Theme(
    "#1b1b20", "#d9d9de", "#ffffff", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1b1b20")
)
DARK = Theme(
    "#ececf1", "#43434d", "#1d1d22", ("#56b4e9", "#e69f00", "#2fc79b", "#e3a0c6", "#f0e442", "#ff7f3f", "#ececf1")
)
Draw = Callable[[Theme], Figure]


def png(draw: Draw, theme: Theme = LIGHT) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    return _saved(draw, theme, "png", {"Software": None})


def svg(draw: Draw, theme: Theme = LIGHT) -> bytes:
    """Return a figure as the bytes of an SVG file that needs no fonts."""
    return _saved(draw, theme, "svg", {"Date": None, "Creator": None})


def _saved(draw: Draw, theme: Theme, kind: str, metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    figure = draw(theme)
    FigureCanvasAgg(figure)
    with styled(theme):
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def single(paint: Callable[[Theme, Axes], None], *, height: float, width: float = WIDTH) -> Draw:
    """Return a function that draws a figure with one pair of axes; height and width are in inches."""

    def draw(theme: Theme) -> Figure:
        with styled(theme):
            figure = Figure(figsize=(width, height), layout="constrained")
            paint(theme, figure.subplots())
            return figure

    return draw


def styled(theme: Theme) -> Any:
    """Return a context manager in which only matplotlib's defaults and these settings hold."""
    ours: dict[str, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": theme.ink,
        "axes.facecolor": theme.paper,
        "axes.grid": True,
        "axes.labelcolor": theme.ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": theme.paper,
        "font.size": 10,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.title_fontsize": 9,
        "savefig.facecolor": theme.paper,
        "svg.fonttype": "path",
        "svg.hashsalt": "robust-encoders",
        "text.color": theme.ink,
        "text.parse_math": False,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    return style.context(["default", ours])


def percent(axes: Axes, axis: Literal["x", "y"], label: str) -> None:
    """Turn an axis into one of per cent, with a grid for this axis alone."""
    axes.set(**{f"{axis}label": label, f"{axis}ticks": range(0, 101, 20)})
    axes.grid(visible=False, axis="y" if axis == "x" else "x")


def legend(axes: Axes, *, columns: int, title: str = "") -> None:
    """Put the legend below the axes, where it hides nothing."""
    figure = axes.get_figure(root=True)
    handles, labels = axes.get_legend_handles_labels()
    if figure is not None:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, title=title, alignment="left")
