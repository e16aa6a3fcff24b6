"""``report.html``: one evaluation on one page without other files, and its figures as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from robust_encoders.utils.home import expanded, write_atomically

from ...evaluation.results import Evaluation
from ...evaluation.sanity.trust import NOT_TRUSTED
from ...evaluation.suite import version_problems, versions_of
from ..evaluation_tables import tables_of
from ..plots.data import curves_of, rates_of, spot_of
from ..plots.figures import attack_curves, rate_bars, trade_off
from ..plots.style import Draw, png
from ..rows import metric_rows, plain_rows, worst_rows
from ..stored_evaluation import StoredEvaluation
from ..tables import Number, Row
from ..titles import encoder_title, short_title
from ..verdict_words import verdict_words
from .pictures import groups_of, pictures_note, textless_of
from .template import figures_in, rendered, texts_of
from .text import method_of

REPORT_NAME = "report.html"
_CARDS: Mapping[str, str] = {
    "worst_case": "worst case of attacks by text",
    "worst_case_embeddings": "worst case of text and embeddings",
    "everyday": "everyday words as asked",
    "retain_all": "kept as asked",
    "clip_score": "CLIP score",
}


def write_report(out: str | Path, evaluation: Evaluation, *, beside: Sequence[str | Path] = ()) -> Path:
    """Write the page and the figures of a stored evaluation; each file is written completely or not at all.

    Args:
        out: Folder of the evaluation; its parts hold the pictures and the verdicts.
        evaluation: Numbers of the evaluation.
        beside: Folders of further evaluations for the figures.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If a folder of ``beside`` holds no evaluation.
        ValueError: If one is of another suite version.
    """
    out, folders = expanded(out), [expanded(folder) for folder in beside]
    stored = StoredEvaluation.read(out, evaluation) if out.is_dir() else StoredEvaluation(evaluation)
    others = {str(folder): StoredEvaluation.read(folder) for folder in folders}
    version, named = versions_of(evaluation)[0], [(name, one.evaluation) for name, one in others.items()]
    if problems := version_problems(named, version, "beside this one"):
        raise ValueError("\n".join(problems))
    draws = figures_of([stored, *others.values()])
    for name, draw in draws.items():
        write_atomically(out / f"{name}.png", png(draw))
    write_atomically(out / REPORT_NAME, page(stored, draws).encode())
    return out / REPORT_NAME


def figures_of(stored: Sequence[StoredEvaluation]) -> dict[str, Draw]:
    """Return name to figure: bars and trade-off of all evaluations, attack curves of the first.

    A figure without numbers is left out.
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
    """Return a unique name for each evaluation."""
    names: list[str] = []
    for one in stored:
        name = f"{short_title(one.evaluation)}, {one.evaluation.concept}"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def page(stored: StoredEvaluation, draws: Mapping[str, Draw]) -> str:
    """Return the HTML text of the page.

    Args:
        stored: Evaluation of the page.
        draws: Name to figure.
    """
    one = stored.evaluation
    who = "the base" if one.label == "base" else f"the {encoder_title(one)} encoder"
    return rendered(
        "report.html.j2",
        title=f"Can {who} still draw “{one.concept}”?",
        verdict=verdict_words(stored),
        lead=_lead(stored),
        cards=_cards(stored),
        pictures_note=pictures_note(stored),
        groups=groups_of(stored),
        textless=textless_of(stored),
        figures=figures_in(draws),
        tables=list(map(texts_of, tables_of(stored))),
        method=method_of(stored),
    )


def _lead(stored: StoredEvaluation) -> str:
    if stored.evaluation.label == "base":
        return "This is the base without a robust encoder. Encoders are compared with it."
    return (
        f"The concept “{stored.evaluation.concept}” was erased from the text encoder. This page shows the pictures of "
        "the pipeline, the success of attacks, and the pictures of all other prompts."
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
