"""The texts of a report: numbers, settings and prompts in readable form."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from ...evaluation.single_detectors import agreement
from ...evaluation.suite import versions_of
from ...evaluation.threat_model import attack_of
from ...types import Result
from ..results_table import judge_accuracies
from ..rows import attack_rows
from ..stored_evaluation import StoredEvaluation
from ..tables import MISSING
from ..titles import settings_line


def visible(text: str) -> str:
    """Return text with all invisible characters escaped, because attacks can find any character."""
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def one_or_list(values: Iterable[Any]) -> str:
    """Return the different values in order, or a dash."""
    return ", ".join(str(value) for value in dict.fromkeys(values)) or MISSING


def method_of(stored: StoredEvaluation) -> list[dict[str, Any]]:
    """Return the methods section: titled lists of names and explanations."""
    results = stored.evaluation.results
    attacks = [(row.title, settings_line(row.attack)) for row in attack_rows(stored)]
    suite = ("Suite version", one_or_list(versions_of(stored.evaluation)))
    return [
        {
            "title": "Settings of every number",
            "rows": [_detector(results), *_agreement(stored), _seeds(results), *_sampling(results)],
        },
        {"title": "Prompts", "rows": _prompts(results)},
        {"title": "Attacks", "rows": attacks},
        {"title": "Limits and versions", "rows": [*_control(results), _costs(results), suite, _versions(results)]},
    ]


def _detector(results: Sequence[Result]) -> tuple[str, str]:
    judges = [r for r in results if r.threshold is not None]
    said = (
        f"{r.detector}, version {r.detector_version}: the concept counts as shown from a score of {r.threshold:g} on"
        for r in judges
    )
    return "Detector", one_or_list(said) + ". It sees finished pictures only."


def _agreement(stored: StoredEvaluation) -> list[tuple[str, str]]:
    found = agreement(stored.verdicts)
    if found is None:
        return []
    same, n = found
    return [
        ("Agreement of the detectors", f"They agree on {same:,} of {n:,} judged pictures ({100 * same / n:.1f} %).")
    ]


def _seeds(results: Sequence[Result]) -> tuple[str, str]:
    seeds = one_or_list(seed for result in results for seed in result.seeds)
    return "Seed", f"{seeds}; it fixes prompts, pictures and attacks. Each picture has its own seed derived from it."


def _sampling(results: Sequence[Result]) -> list[tuple[str, str]]:
    found = (r.settings.get("sampling", {}) for r in results)
    return [("Sampling", one_or_list(settings_line(one) for one in found if one))]


def _prompts(results: Sequence[Result]) -> list[tuple[str, str]]:
    sets = dict.fromkeys((r.prompt_set, r.prompt_sha256) for r in results if r.prompt_set)
    largest = {key: max(r.n for r in results if (r.prompt_set, r.prompt_sha256) == key) for key in sets}
    return [(name, f"{largest[name, sha]} cases, hash {sha or MISSING}") for name, sha in sets]


def _control(results: Sequence[Result]) -> list[tuple[str, str]]:
    found = judge_accuracies(results)
    return [("Accuracy of the judge on rendered pictures with known contents", found)] if found else []


def _costs(results: Sequence[Result]) -> tuple[str, str]:
    # Several results of the same pictures each hold the calls of these pictures, so the calls must be counted once.
    parts: dict[tuple[str, str], int] = {}
    for r in results:
        key = (r.prompt_set, attack_of(r).get("label", ""))
        parts[key] = max(parts.get(key, 0), r.unet_calls)
    return "UNet calls in all", f"{sum(parts.values()):,} forwards on one latent; a backward counts as one more"


def _versions(results: Sequence[Result]) -> tuple[str, str]:
    found = (", ".join(f"{name} {number}" for name, number in r.versions.items()) for r in results if r.versions)
    return "Versions", one_or_list(found)
