"""The pictures of a report: groups of prompts with the pictures before and after, and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import attack_rows
from ..stored_evaluation import StoredEvaluation
from ..tables import Row
from ..titles import set_title
from .text import visible

_TEXTLESS: Mapping[str, str] = {
    "T4": "It uses free vectors instead of words, so there is no text to show.",
    "T5": "It starts from a picture of the concept and adds no text to show.",
    "T6": "It chooses the latents that the picture starts from and adds no text to show.",
    "T7": "It bypasses the text encoder and adds no text to show.",
}


def pictures_note(stored: StoredEvaluation) -> str:
    """Return a note about all pictures, with the score from which on the concept counts as shown."""
    judge = next((r for r in stored.evaluation.results if r.threshold is not None), None)
    said = (
        ""
        if judge is None
        else f" The number under each is the score of {judge.detector}; the concept counts as shown from "
        f"{judge.threshold:g} on."
    )
    return f"Each pair has the same prompt and seed.{said} These are a few examples; the rates are in the table."


def groups_of(stored: StoredEvaluation) -> list[dict[str, Any]]:
    """Return the groups of pictures, each with its title, its note and its rows."""
    if stored.pictures is None:
        return []
    groups = stored.pictures["groups"]
    return [_group(stored, group) for group in groups if not (group["kind"] == "attack" and _is_plain(stored, group))]


def _is_plain(stored: StoredEvaluation, group: Mapping[str, Any]) -> bool:
    """Return True if an attack only repeats the prompts, whose pictures the page shows already."""
    row = _attack(stored, group["name"])
    return row is not None and row.tier == "T0"


def _attack(stored: StoredEvaluation, label: str) -> Row | None:
    return next((row for row in attack_rows(stored) if row.label == label), None)


def _group(stored: StoredEvaluation, group: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = group["kind"], group["name"]
    titles = {"attack": f"Attacked: {name}", "kept": "Everything else, to be kept"}
    notes = {
        "attack": f"{_won(stored, name)} The encoder under test was attacked; cases that the attack won come first.",
        "kept": "Prompts without the concept. The picture should look as the prompt says.",
        "plain": f"The first prompts of {name}.",
    }
    rows = [_row(row, kind, stored.evaluation.concept) for row in group["rows"]]
    return {"title": titles.get(kind) or set_title(name), "note": notes[kind], "rows": rows}


def _won(stored: StoredEvaluation, label: str) -> str:
    """Return a sentence with the number of cases that an attack won."""
    row = _attack(stored, label)
    if row is None or row.gained is None:
        return ""
    gained, n = row.gained.value, row.gained.n
    won, before = round(gained * n), round((row.number.value - gained) * n)
    free = f", and {before} succeed without it" if before else ""
    return f"{row.title}: it won {won} of {n} prompts{free}."


def _row(row: Mapping[str, Any], kind: str, concept: str) -> dict[str, Any]:
    pictures = {"before": row["before"], "after": row["after"]}
    if row["after"] is None:
        pictures = {"base": row["before"]}
    notes = [f"seed {row['seed']}"]
    if row["original"]:
        source = "without a text" if row.get("textless") else f"from: {visible(row['original'])}"
        notes = ["the attack won" if row["won"] else "the attack lost", source, *notes]
    shown = [_picture(picture, who, kind, concept) for who, picture in pictures.items()]
    for picture in shown:
        picture["alt"] = f"Picture {picture['who']} for the prompt {visible(row['prompt'])}: {picture['verdict']}"
    return {"pictures": shown, "prompt": visible(row["prompt"]), "note": "; ".join(notes)}


def _picture(picture: Mapping[str, Any], who: str, kind: str, concept: str) -> dict[str, Any]:
    verdict, instead = f"{'' if picture['found'] else 'no '}{concept}, {picture['score']:.2f}", picture["instead"]
    if kind == "kept" and instead is not None:
        verdict += f"; not asked: {instead}" if instead else "; as asked"
    return {"who": who, "png": picture["png"], "verdict": verdict, "good": not (picture["found"] or instead)}


def textless_of(stored: StoredEvaluation) -> list[dict[str, str]]:
    """Return title and note of each attack without a text to show."""
    shown = {group["name"] for group in (stored.pictures or {"groups": []})["groups"] if group["kind"] == "attack"}
    return [
        {"title": f"Attacked: {row.label}", "note": f"{_won(stored, row.label)} {_why_textless(stored, row)}"}
        for row in attack_rows(stored)
        if row.label in stored.verdicts and row.label not in shown and row.tier != "T0"
    ]


def _why_textless(stored: StoredEvaluation, row: Row) -> str:
    if all(verdict.before for verdict in stored.verdicts[row.label]):
        return "Every prompt succeeds without the attack, so there is nothing to show."
    return _TEXTLESS.get(row.tier, "It found no text to show.")
