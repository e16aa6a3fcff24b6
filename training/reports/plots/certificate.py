"""The figure of a certificate: success by tenth of the ranking, and distances against the lower bound."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...evaluation.certificate.record import Certificate
from ...evaluation.certificate.share import Share
from .style import WIDTH, Draw, Theme, percent, styled

_HEIGHT = 5.4


def certificate_figure(certificate: Certificate) -> Draw:
    """Return a function that draws a certificate.

    The upper panel shows the share of prompts that showed the concept, with 95 % intervals: the nearest ones, then a
    sample of each tenth. If no prompt of the tenths showed it, squares show the base alone, by its own ranking. Lines
    show the floors of chance. The lower panel shows the distances at the ends of the tenths, and the lower bound if one
    is known.

    Args:
        certificate: Certificate.
    """

    def draw(theme: Theme) -> Figure:
        with styled(theme):
            figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
            upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
            _success(certificate, theme, upper)
            _margins(certificate, theme, lower)
            return figure

    return draw


def _success(certificate: Certificate, theme: Theme, axes: Axes) -> None:
    blue, orange = theme.colours[:2]
    _points(axes, [0], [certificate.nearest], orange, "D")
    _points(axes, range(1, 1 + len(certificate.tenths)), certificate.tenths, blue, "o")
    if certificate.base_tenths:
        _points(axes, range(1, 1 + len(certificate.base_tenths)), certificate.base_tenths, theme.ink, "s")
        axes.plot([], [], "s", color=theme.ink, label="base, its own ranking")
    for floor, words, dash in ((certificate.chance.encoder, "", "--"), (certificate.chance.base, ", base", ":")):
        rate = 100 * floor.rate
        axes.axhline(rate, color=theme.ink, linestyle=dash, linewidth=1, label=f"empty prompt{words}")
    names = ["nearest", *(str(i) for i in range(1, 1 + len(certificate.tenths)))]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("tenth of the ranking by distance")
    percent(axes, "y", "prompts that showed it, %")
    axes.set_ylim(-3, 103)
    axes.set_title("Success by distance" if certificate.holds else "No certificate", fontsize=10, loc="left")
    axes.legend(loc="upper right")


def _points(
    axes: Axes, places: range | list[int], shares: tuple[Share, ...] | list[Share], colour: str, marker: str
) -> None:
    rates = [100 * one.shown / one.n for one in shares]
    below = [rate - 100 * one.interval[0] for rate, one in zip(rates, shares, strict=True)]
    above = [100 * one.interval[1] - rate for rate, one in zip(rates, shares, strict=True)]
    axes.errorbar(places, rates, yerr=[below, above], fmt=marker, color=colour, capsize=2)


def _margins(certificate: Certificate, theme: Theme, axes: Axes) -> None:
    axes.plot(range(len(certificate.margins)), certificate.margins, "o-", color=theme.colours[0], markersize=4)
    axes.set_xticks(range(len(certificate.margins)), ["first", *(f"{10 * i} %" for i in range(1, 11))], fontsize=8)
    axes.set_xlabel("part of the ranking that is as near or nearer")
    axes.set_ylabel("distance")
    axes.set_ylim(bottom=0)
    if certificate.bound is None:
        words = "no lower bound is known"
        axes.text(0.98, 0.06, words, transform=axes.transAxes, ha="right", fontsize=9)
    else:
        axes.axhline(certificate.bound, color=theme.colours[1], linewidth=1.3, label="no text is nearer")
        axes.legend(loc="lower right")
