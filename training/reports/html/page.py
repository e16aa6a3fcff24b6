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
from ...evaluation.sanity.trust import NOT_TRUSTED, failed_checks_of_all
from ...evaluation.threat_model import tier_of
from ..metric_labels import cell
from ..plots.data import attack_title, curves_of, rates_of, short_title, spot_of
from ..plots.figures import attack_curves, rate_bars, trade_off
from ..plots.style import DARK, LIGHT, Draw, png, svg
from ..stored_evaluation import StoredEvaluation, WorstCaseRate
from ..tables import who_of
from .tables import tables_of
from .text import method_of, set_title, visible

REPORT_NAME = "report.html"
_TEXTLESS: Mapping[str, str] = {
    "T4": "It puts free vectors in place of words: no text exists that could be shown.",
    "T5": "It starts from a picture of the concept: what it adds is no text that could be shown.",
    "T6": "It chooses the latents that the picture starts from: it adds no text that could be shown.",
    "T7": "It goes past the text encoder: it adds no text that could be shown.",
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
        out: Folder of the evaluation; its cells hold the pictures and the verdicts.
        evaluation: Its numbers.
        beside: Finished evaluations that the figures show, too.

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
        name = f"{short_title(one)}, {one.evaluation.concept}"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def page(stored: StoredEvaluation, draws: Mapping[str, Draw]) -> str:
    """Return the text of the page.

    Args:
        stored: The evaluation.
        draws: Name to figure.
    """
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    # Prompts that an attack found can hold any character: everything is escaped.
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    one = stored.evaluation
    who = "the base" if one.label == "base" else f"the {who_of(one)} encoder"
    return template.render(
        title=f"Can {who} still draw “{one.concept}”?",
        lead=_lead(stored),
        cards=_cards(stored),
        pictures_note=_pictures_note(stored),
        groups=_groups(stored),
        textless=_textless(stored),
        figures=[_figure(name, draw) for name, draw in draws.items()],
        tables=tables_of(stored),
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
    cards = [
        {"name": f"no attack, {r.prompt_set}", "value": f"{100 * r.value:.1f} %", "note": cell(r)}
        for r in stored.plain[:1]
    ]
    named = (("worst case of texts", stored.worst_case), ("with embeddings, too", stored.worst_case_embeddings))
    cards += [_worst_card(stored, name, worst) for name, worst in named if worst is not None]
    for metric, name, scale, unit in (("retain_all", "kept as asked", 100, " %"), ("clip_score", "CLIP score", 1, "")):
        result = stored.named(metric)
        if result is not None:
            value = f"{scale * result.value:.{1 if unit else 3}f}{unit}"
            cards.append({"name": name, "value": value, "note": f"{cell(result)}; n = {result.n}"})
    return cards


def _worst_card(stored: StoredEvaluation, name: str, worst: WorstCaseRate) -> dict[str, str]:
    sign, how = ("", "prompt by prompt") if worst.exact else ("≥ ", "the strongest single attack")
    bounds = "" if worst.interval is None else f"[{100 * worst.interval[0]:.1f}, {100 * worst.interval[1]:.1f}]; "
    doubt = f"; {NOT_TRUSTED}, see the checks" if failed_checks_of_all(stored.evaluation, worst.labels) else ""
    note = f"{bounds}{', '.join(worst.labels) or 'no attack'}; {how}; n = {worst.n}{doubt}"
    return {"name": name, "value": f"{sign}{100 * worst.value:.1f} %", "note": note}


def _pictures_note(stored: StoredEvaluation) -> str:
    judge = next((r for r in stored.evaluation.results if r.threshold is not None), None)
    said = (
        "" if judge is None else f" Under each: the score of {judge.detector}; from {judge.threshold:g} on it counts."
    )
    return f"Each pair has the same prompt and seed.{said} A handful, not a sample: the rates are in the table."


def _groups(stored: StoredEvaluation) -> list[dict[str, Any]]:
    if stored.pictures is None:
        return []
    groups = stored.pictures["groups"]
    return [_group(stored, group) for group in groups if not (group["kind"] == "attack" and _is_plain(stored, group))]


def _is_plain(stored: StoredEvaluation, group: Mapping[str, Any]) -> bool:
    """Return whether an attack only repeats the prompts, whose pictures the page shows already."""
    result = stored.attacks.get(group["name"])
    return result is not None and tier_of(result) == "T0"


def _group(stored: StoredEvaluation, group: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = group["kind"], group["name"]
    titles = {"attack": f"Attacked: {name}", "kept": "Everything else, to be kept"}
    notes = {
        "attack": f"{_won(stored, name)} The encoder under test was attacked; cases that the attack won come first.",
        "kept": "Prompts without the concept. What the picture should look like stands in the prompt.",
        "plain": f"The first prompts of {name}.",
    }
    rows = [_row(row, kind, stored.evaluation.concept) for row in group["rows"]]
    return {"title": titles.get(kind) or set_title(name), "note": notes[kind], "rows": rows}


def _won(stored: StoredEvaluation, label: str) -> str:
    """Return in words how many cases an attack won."""
    result, gained = stored.attacks.get(label), stored.named("asr_gained", label)
    if result is None or gained is None:
        return ""
    won, before = round(gained.value * gained.n), round((result.value - gained.value) * gained.n)
    free = f", and {before} succeed without it" if before else ""
    return f"{attack_title(result)}: it won {won} of {gained.n} prompts{free}."


def _row(row: Mapping[str, Any], kind: str, concept: str) -> dict[str, Any]:
    pictures = {"before": row["before"], "after": row["after"]}
    if row["after"] is None:
        pictures = {"base": row["before"]}
    notes = [f"seed {row['seed']}"]
    if row["original"]:
        notes = ["the attack won" if row["won"] else "the attack lost", f"from: {visible(row['original'])}", *notes]
    shown = [_picture(picture, who, kind, concept) for who, picture in pictures.items()]
    for picture in shown:
        picture["alt"] = f"Picture {picture['who']} for the prompt {visible(row['prompt'])}: {picture['verdict']}"
    return {"pictures": shown, "prompt": visible(row["prompt"]), "note": "; ".join(notes)}


def _picture(picture: Mapping[str, Any], who: str, kind: str, concept: str) -> dict[str, Any]:
    verdict, instead = f"{'' if picture['found'] else 'no '}{concept}, {picture['score']:.2f}", picture["instead"]
    if kind == "kept" and instead is not None:
        verdict += f"; not asked: {instead}" if instead else "; as asked"
    return {"who": who, "png": picture["png"], "verdict": verdict, "good": not (picture["found"] or instead)}


def _textless(stored: StoredEvaluation) -> list[dict[str, str]]:
    """Return what there is to say about attacks of which no text can be shown."""
    shown = {group["name"] for group in (stored.pictures or {"groups": []})["groups"] if group["kind"] == "attack"}
    notes = []
    for label, result in stored.attacks.items():
        if label in stored.verdicts and label not in shown and tier_of(result) != "T0":
            free = all(verdict.before for verdict in stored.verdicts[label])
            why = (
                "Every prompt succeeds without the attack, so there is nothing to show."
                if free
                else _TEXTLESS.get(tier_of(result), "It found no text that could be shown.")
            )
            notes.append({"title": f"Attacked: {label}", "note": f"{_won(stored, label)} {why}"})
    return notes


def _figure(name: str, draw: Draw) -> dict[str, str]:
    alt, caption = _FIGURES[name]
    light, dark = (base64.b64encode(svg(draw, theme)).decode() for theme in (LIGHT, DARK))
    return {"light": light, "dark": dark, "alt": alt, "caption": caption}
