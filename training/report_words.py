"""The words of a report: numbers, settings and prompts as a reader sees them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .charts import attack_title
from .finished import Finished, attack_of
from .protocols import Result
from .report import CONTROLS, MISSING, cell

TIERS: Mapping[str, str] = {
    "T0": "plain prompts",
    "T1": "synonyms and paraphrases",
    "T2": "text, without a look into the model",
    "T3": "tokens, with the model's gradients",
    "T4": "free input embeddings, which no text can produce",
    "T5": "conditioned on a picture",
    "T6": "latents",
    "T7": "changed weights",
}
SETS: Mapping[str, str] = {
    "name": "Plain prompts: the concept by its name",
    "seen": "Synonyms that training saw",
    "unseen": "A synonym that training never saw",
}


def visible(text: str) -> str:
    """Return text with everything that has no shape of its own escaped: attacks find any character."""
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def set_title(name: str) -> str:
    """Return what a prompt set ``concept/words`` is, in words."""
    return SETS.get(name.rpartition("/")[2], f"Prompts of {name}")


def count(value: float) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,.0f}"


def one_or_list(values: Iterable[Any]) -> str:
    """Return the different values in order, or a dash."""
    return ", ".join(str(value) for value in dict.fromkeys(values)) or MISSING


def tables_of(finished: Finished) -> list[dict[str, Any]]:
    """Return the tables of unattacked, attacked and kept prompts."""
    evaluation = finished.evaluation
    plain = [[set_title(r.prompt_set), cell(r), str(r.n), count(r.unet_calls), r.origin] for r in finished.plain]
    attacked = [_attack_row(finished, label, result) for label, result in finished.attacks.items()]
    shown = {"pre_asr", "asr_any", "asr_last", "asr_gained"}
    others = [r for r in evaluation.results if r.metric not in shown]
    kept = [[r.metric.replace("_", " "), cell(r), str(r.n), r.prompt_set or MISSING, r.origin] for r in others]
    return [
        {"title": "Without an attack", "head": ["prompts", "success", "n", "UNet calls", "origin"], "rows": plain},
        {
            "title": "Under attack",
            "head": ["attack", "success", "gained", "last", "n", "UNet calls", "seconds", "origin"],
            "rows": attacked,
        },
        {"title": "What is kept, and controls", "head": ["metric", "value", "n", "prompts", "origin"], "rows": kept},
    ]


def _attack_row(finished: Finished, label: str, result: Result) -> list[str]:
    seconds = finished.evaluation.seconds.get(f"attack-{label}")
    others = [cell(finished.named(metric, label)) for metric in ("asr_gained", "asr_last")]
    spent = MISSING if seconds is None else count(seconds)
    return [attack_title(result), cell(result), *others, str(result.n), count(result.unet_calls), spent, result.origin]


def method_of(finished: Finished) -> list[dict[str, Any]]:
    """Return what was measured how, as titled lists of names and explanations."""
    results = finished.evaluation.results
    attacks = [(attack_title(r), _settings(attack_of(r))) for r in finished.attacks.values()]
    return [
        {"title": "In every number", "rows": [_detector(results), _seeds(results), *_sampling(results)]},
        {"title": "Prompts", "rows": _prompts(results)},
        {"title": "Attacks", "rows": attacks},
        {"title": "Limits and versions", "rows": [*_control(finished), _costs(results), _versions(results)]},
    ]


def _detector(results: Sequence[Result]) -> tuple[str, str]:
    judges = [r for r in results if r.threshold is not None]
    said = (
        f"{r.detector}, version {r.detector_version}: the concept is there from a score of {r.threshold:g} on"
        for r in judges
    )
    return "Detector", one_or_list(said) + ". It sees finished pictures only."


def _seeds(results: Sequence[Result]) -> tuple[str, str]:
    seeds = one_or_list(seed for result in results for seed in result.seeds)
    return "Seed", f"{seeds}; it fixes prompts, pictures and attacks, and each picture has its own seed made from it"


def _sampling(results: Sequence[Result]) -> list[tuple[str, str]]:
    found = (r.settings.get("sampling", {}) for r in results)
    return [("Sampling", one_or_list(_settings(one) for one in found if one))]


def _prompts(results: Sequence[Result]) -> list[tuple[str, str]]:
    sets = dict.fromkeys((r.prompt_set, r.prompt_sha256) for r in results if r.prompt_set)
    largest = {key: max(r.n for r in results if (r.prompt_set, r.prompt_sha256) == key) for key in sets}
    return [(name, f"{largest[name, sha]} cases, hash {sha or MISSING}") for name, sha in sets]


def _settings(values: Mapping[str, Any]) -> str:
    """Return settings as one line; what the title says already is left out, a tier is put in words."""
    tier = TIERS.get(values.get("tier", ""), "")
    named = [
        f"{key.replace('_', ' ')} {value}" for key, value in values.items() if key not in ("label", "tier", "name")
    ]
    lead = [f"{values['name']} ({tier})" if tier else str(values["name"])] if "name" in values else []
    return ": ".join([*lead, ", ".join(named)]) if named else ", ".join(lead)


def _control(finished: Finished) -> list[tuple[str, str]]:
    metrics = (f"judge_{factor}" for factor, _ in CONTROLS)
    found = [r for r in map(finished.named, metrics) if r is not None]
    parts = ", ".join(f"{r.metric.removeprefix('judge_')} {cell(r)}" for r in found)
    return [("The judge on rendered pictures, where the truth is known", parts)] if found else []


def _costs(results: Sequence[Result]) -> tuple[str, str]:
    parts = {(r.prompt_set, attack_of(r).get("label", "")): r.unet_calls for r in results}
    return "UNet calls in all", f"{count(sum(parts.values()))}, forwards on one latent; a backward counts as one more"


def _versions(results: Sequence[Result]) -> tuple[str, str]:
    found = (", ".join(f"{name} {number}" for name, number in r.versions.items()) for r in results if r.versions)
    return "Versions", one_or_list(found)
