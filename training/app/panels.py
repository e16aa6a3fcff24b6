"""The parts of the page as HTML: header, pictures, report, attack. Whatever a visitor wrote is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from robust_encoders.pipeline.status import Status

from ..evaluation.threat_model import TEXT_TIERS, tier_title
from ..reports.html.text import visible
from .attack_state import AttackState, Attempt, title_of
from .studio import Drawn, Fit, Shown, Studio

_SHORT = "The search is short: what it misses, a longer one may find. It does not use the negative prompt."
_SMALL = 128  # pixels below which a picture is enlarged in squares


def style() -> str:
    """Return the style sheet of the page."""
    return (resources.files(__package__) / "page.css").read_text(encoding="utf-8")


def header(studio: Studio) -> str:
    """Return the head of the page: what it is for, the base, and what is filtered."""
    return _made("header", "Robust text encoders, side by side", studio.title, studio.screen.words())


def waiting() -> str:
    """Return what stands in the place of the pictures before the first drawing."""
    return _made("waiting")


def problems(texts: Iterable[str]) -> str:
    """Return a message about what a visitor has to change.

    Args:
        texts: Sentences, one for each problem.
    """
    return _made("problems", list(texts))


def pictures(drawn: Drawn) -> str:
    """Return the two pictures side by side, with the verdicts of the judges."""
    waiting = "Not drawn: the report says why." if drawn.fits else "Choose an encoder to see its picture here."
    prompt = drawn.request.prompt
    after = None if drawn.after is None else _shown(drawn.after, f"{prompt}, with the chosen encoders")
    return _made("drawn", _shown(drawn.before, f"{prompt}, without an encoder"), after, waiting, drawn.notes)


def report(drawn: Drawn, names: Mapping[str, str]) -> str:
    """Return the compatibility report of every chosen encoder, and what was attached.

    Args:
        drawn: Answer to a request.
        names: Name of an encoder to its title on the page.
    """
    return _made("report", [_fit(fit, names) for fit in drawn.fits], _attached(drawn), drawn.status.bypasses)


def attack(state: AttackState, prompt: str) -> str:
    """Return the state of an attack: progress or result, and the pictures so far.

    Args:
        state: State of the attack.
        prompt: Prompt under attack.
    """
    # Without attempts, the picture with the encoder showed the concept by itself.
    lost = not state.attempts or any(one.won and one.tier in TEXT_TIERS for one in state.attempts)
    verdict = "" if state.ending != "finished" else "re-bad" if lost else "re-good"
    return _made("attack", state, round(100 * state.share), verdict, list(_cards(state, prompt)))


def attack_note(studio: Studio, names: Sequence[str]) -> str:
    """Return what the attack does with the chosen encoders, or what it needs.

    Args:
        studio: Pipelines and encoders of the page.
        names: Names of the chosen encoders.
    """
    chosen = [studio.trials[concept.name] for concept in studio.concepts(names)]
    if not chosen:
        return _made("note", "Attack it", ["Choose an encoder to attack."])
    texts, ready = [need for trial in chosen for need in trial.needs], [trial for trial in chosen if not trial.needs]
    if ready:
        tries = dict.fromkeys(title_of(label) for trial in ready for label in trial.attacks)
        judges = [trial.detector.name for trial in ready if trial.detector is not None]
        concepts = " or ".join(trial.concept.name for trial in ready)
        texts += [f"To bring {concepts} back, it tries: {'; '.join(tries)}.", f"Judged by {', '.join(judges)}.", _SHORT]
    return _made("note", "Attack it", texts)


def titles(studio: Studio) -> dict[str, str]:
    """Return name to title of every encoder of the page; no two titles are the same."""
    plain = {name: _title(artifact) for name, artifact in studio.encoders.items()}
    several = [title for title in plain.values() if list(plain.values()).count(title) > 1]
    return {name: f"{title}: {name}" if title in several else title for name, title in plain.items()}


def _title(artifact: Any) -> str:
    manifest = artifact.manifest
    overlay = "" if manifest.form == "weights" else f", {manifest.form}"
    return f"{manifest.concept.name} ({manifest.method['name']}{overlay})"


def _fit(fit: Fit, names: Mapping[str, str]) -> dict[str, Any]:
    checks = fit.report.checks
    return {
        "title": names.get(fit.name, fit.name),
        "fits": fit.report.ok,
        "attached": fit.attached,
        "refused": fit.refused,
        "failed": [*fit.report.errors, *fit.report.warnings],
        "passed": [check.name for check in checks if check.ok],
        "n": len(checks),
    }


def _attached(drawn: Drawn) -> dict[str, str]:
    status: Status = drawn.status
    if not status.attached and not status.overlays:
        return {"encoder": "none: nothing is erased"}
    facts = {"encoder": "none, only overlays"}
    if status.attached:
        known = status.provenance or {}
        facts = {"erases": str(known.get("concept", "unknown")), "place": f"pipe.{status.component}"}
        facts |= {key: str(known[key]) for key in ("method", "base", "license") if known.get(key)}
    return {**facts, "overlays": ", ".join(status.overlays) or "none"}


def _cards(state: AttackState, prompt: str) -> Iterator[dict[str, Any]]:
    plain = (("without the encoder", state.before, False), ("with the encoder", state.after, True))
    for title, shown, wanted_gone in plain:
        if shown is not None:
            found = {"title": title, "shown": _shown(shown, f"{prompt}, {title}"), "text": "", "note": ""}
            yield {**found, "wanted_gone": wanted_gone, "won": None}
    for one in state.attempts:
        picture = _shown(one.best, f"{one.text or prompt}, {title_of(one.label)}")
        found = {"title": title_of(one.label), "shown": picture, "text": visible(one.text), "note": _note(one)}
        yield {**found, "wanted_gone": True, "won": one.won}


def _note(one: Attempt) -> str:
    which = "the first that won" if one.won else "the one that came closest"
    pictures = f"{which} of {one.tries} pictures" if one.tries > 1 else "the only picture"
    return f"Shown is {pictures}. {tier_title(one.tier)}."


def _shown(shown: Shown, alt: str) -> dict[str, Any]:
    pixels = (shown.pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return {
        "png": base64.b64encode(file.getvalue()).decode(),
        "alt": alt,
        "small": max(pixels.shape[:2]) < _SMALL,
        "sees": dict(shown.sees),
        "covered": shown.covered,
    }


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = (resources.files(__package__) / "panels.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).make_module()


def _made(macro: str, *arguments: Any) -> str:
    return str(getattr(_template(), macro)(*arguments))
