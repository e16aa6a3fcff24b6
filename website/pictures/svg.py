"""SVG files that fit a telephone, in the colours of the reports, light and dark in one file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape

from robust_encoders.training.reports.plots.style import DARK, LIGHT

WIDTH = 400  # units, of about one CSS pixel on a telephone
SIZE = 13  # of text
LINE = 17  # from one line of text to the next
_LETTER = 7.2  # units that a letter takes at most on average, in any usual sans-serif font


def variables() -> str:
    """Return a style that names the reports' colours, other ones on dark screens."""
    light, dark = (
        {"ink": t.ink, "faint": t.faint, "paper": t.paper, **{f"c{i}": c for i, c in enumerate(t.colours[:6])}}
        for t in (LIGHT, DARK)
    )
    themes = ("".join(f"--{name}:{colour};" for name, colour in theme.items()) for theme in (light, dark))
    return "<style>:root{{{}}}@media (prefers-color-scheme:dark){{:root{{{}}}}}</style>".format(*themes)


def picture(title: str, parts: Iterable[str], height: float) -> bytes:
    """Return the bytes of an SVG file on paper of its own.

    Args:
        title: Text for screen readers.
        parts: Elements, from back to front.
        height: Units.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="{SIZE}" fill="var(--ink)">'
    )
    paper = f'<rect width="{WIDTH}" height="{height:g}" fill="var(--paper)"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", variables(), paper, *parts, "</svg>", ""]).encode()


def text(x: float, y: float, words: str, *, bold: bool = False, colour: str = "ink", anchor: str = "start") -> str:
    """Return one line of text; y is its base line."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="var(--{colour})"{weight}>{escape(words)}</text>'


def paragraph(x: float, y: float, lines: Sequence[str], *, bold: bool = False, colour: str = "ink") -> list[str]:
    """Return lines of text, the first one on the base line y."""
    return [text(x, y + LINE * i, line, bold=bold, colour=colour) for i, line in enumerate(lines)]


def wrapped(words: str, width: float) -> list[str]:
    """Return a text in lines that fit a width."""
    return textwrap.wrap(words, int(width / _LETTER), break_long_words=False)


def box(x: float, y: float, width: float, height: float, *, colour: str, strength: float = 0.14) -> str:
    """Return a rounded box, filled lightly."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"'
    return f'<rect {place} fill="var(--{colour})" fill-opacity="{strength:g}" stroke="var(--{colour})"/>'


def arrow(x: float, start: float, end: float, *, colour: str = "ink") -> str:
    """Return an arrow down from one height to another."""
    head = f"M{x - 4:g} {end - 6:g}L{x:g} {end:g}L{x + 4:g} {end - 6:g}"
    return f'<path d="M{x:g} {start:g}V{end:g}{head}" fill="none" stroke="var(--{colour})" stroke-width="1.4"/>'
