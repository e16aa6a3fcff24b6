"""The templates of all pages, with the tables and figures that they show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ...evaluation.sanity.trust import Marks
from ..plots.style import DARK, LIGHT, Draw, svg
from ..tables import Table

_FIGURES: Mapping[str, tuple[str, str]] = {
    "asr": (
        "Bars of success without and under attack with their intervals. The table below holds the same numbers.",
        "Share of pictures that show the concept, with 95 % intervals; lower is more robust. T0 to T7 are the threat "
        "tiers of the attacks, from plain prompts to changed weights. A text encoder can only defend against T0 to T3. "
        "A question mark means that the attack failed a check.",
    ),
    "curves": (
        "Share of the prompts that each attack had won after a number of its iterations.",
        "Gain from more iterations. A marker stands at each iteration that won a prompt, and at the end of the attack. "
        "An attack that returns its candidates only at the end can only rise there. Iterations of different attacks "
        "cannot be compared; the table gives their cost.",
    ),
    "trade-off": (
        "Success of attacks against the encoder's utility. The tables below hold the same numbers.",
        "Down and to the right is better: attacks fail, and kept prompts are drawn as asked.",
    ),
}


def rendered(name: str, **values: Any) -> str:
    """Return the HTML text of a template.

    Args:
        name: File name of the template.
        values: Values by the names that the template uses.
    """
    # A prompt that an attack found can contain any character, so everything is escaped.
    loader = FunctionLoader(lambda one: resources.files(__package__).joinpath(one).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(name).render(**values)


def texts_of(table: Table) -> dict[str, Any]:
    """Return a table as values for a template; each table numbers its own marks."""
    marks = Marks()
    groups = table.texts(marks)
    return {"title": table.title, "head": table.head, "groups": groups, "note": table.note, "footnotes": marks.notes()}


def figures_in(draws: Mapping[str, Draw]) -> list[dict[str, str]]:
    """Return figures as values for a template: each as SVG, light and dark, with its words.

    Args:
        draws: Name to figure: ``asr``, ``curves`` or ``trade-off``.
    """
    return [_figure(name, draw) for name, draw in draws.items()]


def _figure(name: str, draw: Draw) -> dict[str, str]:
    alt, caption = _FIGURES[name]
    light, dark = (base64.b64encode(svg(draw, theme)).decode() for theme in (LIGHT, DARK))
    return {"light": light, "dark": dark, "alt": alt, "caption": caption}
