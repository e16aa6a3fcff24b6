"""``report.html``: one evaluation on one page that needs nothing else, and its figures as PNG files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from robust_encoders.utils.home import write_atomically

from ...evaluation.results import Evaluation
from ...evaluation.sanity.trust import NOT_TRUSTED, Marks
from ..evaluation_tables import tables_of
from ..plots.data import curves_of, rates_of, spot_of
from ..plots.figures import attack_curves, rate_bars, trade_off
from ..plots.style import DARK, LIGHT, Draw, png, svg
from ..rows import metric_rows, plain_rows, worst_rows
from ..stored_evaluation import StoredEvaluation
from ..tables import Number, Row, Table
from ..titles import encoder_title, short_title
from .pictures import groups_of, pictures_note, textless_of
from .text import method_of

REPORT_NAME = "report.html"
_CARDS: Mapping[str, str] = {
    "worst_case": "worst case of texts",
    "worst_case_embeddings": "with embeddings, too",
    "retain_all": "kept as asked",
    "clip_score": "CLIP score",
}
_FIGURES: Mapping[str, tuple[str, str]] = {
    "asr": (
        "Success without and under attack, as bars with their intervals; the table below holds the same numbers.",
        "How often a picture shows the concept, with 95 % intervals. T0 to T7 are the threat tiers of the attacks, "
        "from plain prompts to changed weights; a text encoder can only defend T0 to T3. A question mark stands where "
        "a check on the attack failed.",
    ),
    "curves": (
        "Share of the prompts that each attack had won after so many of its iterations.",
        "What more iterations bought. A mark stands where some candidate won its first prompt and at the end of the "
        "attack; an attack that hands over its candidates at the end can only rise there. Iterations of different "
        "attacks are different things: the table has what they cost.",
    ),
    "trade-off": (
        "Success of attacks against what the encoder keeps; the tables below hold the same numbers.",
        "Down and to the right is better: attacks fail, and what should be kept is kept.",
    ),
}


def write_report(out: Path, evaluation: Evaluation, *, beside: Sequence[Path] = ()) -> Path:
    """Write the page and the figures of a stored evaluation, each of them whole or not at all.

    Args:
        out: Folder of the evaluation; its parts hold the pictures and the verdicts.
        evaluation: Numbers of the evaluation.
        beside: Folders of evaluations that the figures show, too.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If there is no evaluation where ``beside`` says.
    """
    stored = StoredEvaluation.read(out, evaluation) if out.is_dir() else StoredEvaluation(evaluation)
    draws = figures_of([stored, *map(StoredEvaluation.read, beside)])
    for name, draw in draws.items():
        write_atomically(out / f"{name}.png", png(draw))
    write_atomically(out / REPORT_NAME, page(stored, draws).encode())
    return out / REPORT_NAME


def figures_of(stored: Sequence[StoredEvaluation]) -> dict[str, Draw]:
    """Return name to figure: bars and trade-off of all evaluations, attack curves of the first.

    What an evaluation has no numbers for has no figure.
    """
    first, spots = stored[0], [spot_of(one) for one in stored]
    found: dict[str, Draw] = {}
    if groups := {title: rates for title, rates in zip(_titles(stored), map(rates_of, stored), strict=True) if rates}:
        found["asr"] = rate_bars(groups)
    if curves := curves_of(first):
        found["curves"] = attack_curves(curves)
    if any(spot.utility for spot in spots):
        found["trade-off"] = trade_off(spots)
    return found


def _titles(stored: Sequence[StoredEvaluation]) -> list[str]:
    """Return a name for each evaluation, a different one for each."""
    names: list[str] = []
    for one in stored:
        name = f"{short_title(one.evaluation)}, {one.evaluation.concept}"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def page(stored: StoredEvaluation, draws: Mapping[str, Draw]) -> str:
    """Return the text of the page.

    Args:
        stored: Evaluation that the page is about.
        draws: Figures by their names.
    """
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    # Prompts that an attack found can hold any character: everything is escaped.
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    one = stored.evaluation
    who = "the base" if one.label == "base" else f"the {encoder_title(one)} encoder"
    return template.render(
        title=f"Can {who} still draw “{one.concept}”?",
        lead=_lead(stored),
        cards=_cards(stored),
        pictures_note=pictures_note(stored),
        groups=groups_of(stored),
        textless=textless_of(stored),
        figures=[_figure(name, draw) for name, draw in draws.items()],
        tables=list(map(_texts, tables_of(stored))),
        method=method_of(stored),
    )


def _lead(stored: StoredEvaluation) -> str:
    if stored.evaluation.label == "base":
        return "The base as it is, without any robust encoder: what an encoder has to be compared with."
    return (
        f"The concept “{stored.evaluation.concept}” was erased from the text encoder. Below: what the pipeline draws "
        "with it, what attacks get out of it, and what the rest of the world looks like now."
    )


def _cards(stored: StoredEvaluation) -> list[dict[str, str]]:
    """Return the headline numbers."""
    plain = (_card(f"no attack, {row.prompts}", row.number, row.number.text) for row in plain_rows(stored)[:1])
    rows = (row for rows in metric_rows(stored).values() for row in rows)
    kept = ((_CARDS[row.metric], row.number) for row in rows if row.metric in _CARDS)
    return [
        *plain,
        *map(_worst_card, worst_rows(stored)),
        *(_card(name, number, f"{number.text}; n = {number.n}") for name, number in kept),
    ]


def _worst_card(row: Row) -> dict[str, str]:
    number, labels = row.number, ", ".join(row.attack["attacks"]) or "no attack"
    how = "the strongest single attack" if number.bound else "prompt by prompt"
    mark = f"{NOT_TRUSTED}, see the checks" if number.failed else ""
    note = "; ".join(filter(None, (number.bounds, labels, how, f"n = {number.n}", mark)))
    return _card(_CARDS[row.metric], number, note)


def _card(name: str, number: Number, note: str) -> dict[str, str]:
    return {"name": name, "value": f"{number.bare}{' %' if number.scale == 100 else ''}", "note": note}


def _texts(table: Table) -> dict[str, Any]:
    """Return a table as the page shows it; its marks are numbered by itself."""
    marks = Marks()
    groups = table.texts(marks)
    return {"title": table.title, "head": table.head, "groups": groups, "note": table.note, "footnotes": marks.notes()}


def _figure(name: str, draw: Draw) -> dict[str, str]:
    alt, caption = _FIGURES[name]
    light, dark = (base64.b64encode(svg(draw, theme)).decode() for theme in (LIGHT, DARK))
    return {"light": light, "dark": dark, "alt": alt, "caption": caption}
