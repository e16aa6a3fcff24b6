"""The page of several evaluations: their tables, figures, and links to their own pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..plots.style import Draw
from ..tables import Table
from .template import figures_in, rendered, texts_of


def overview(
    title: str,
    tables: Sequence[Table],
    draws: Mapping[str, Draw],
    *,
    notes: Sequence[str] = (),
    pages: Mapping[str, str] | None = None,
) -> str:
    """Return the HTML text of a page, which needs no other file.

    Args:
        title: Title of the page.
        tables: Tables in their order.
        draws: Name to figure.
        notes: Lines that a reader should know before the tables.
        pages: Name of an evaluation to the place of its own page, relative to this one.
    """
    return rendered(
        "overview.html.j2",
        title=title,
        tables=list(map(texts_of, tables)),
        figures=figures_in(draws),
        notes=list(notes),
        pages=dict(pages or {}),
    )
