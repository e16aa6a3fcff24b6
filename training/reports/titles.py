"""What encoders, prompt sets and worst cases are called, and settings in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.results import Evaluation
from ..evaluation.threat_model import TIERS
from ..recipes.variants import variant_of

# The names say what the bars can be compared with.
WORST = "worst case, T0-T3"
WORST_EMBEDDINGS = "worst case, T0-T4"
# Titles of baselines, methods, and variants of a method's recipes.
ENCODERS: Mapping[str, str] = {
    "base": "base",
    "empty_prompt": "empty prompt",
    "word_filter": "word filter",
    "des": "DES",
    "sage": "DES with SAGE's terms",
    "esd": "ESD",
    "advunlearn": "AdvUnlearn",
    "hardened": "AdvUnlearn, hardened",
    "strict": "AdvUnlearn, strict",
    "uce": "UCE",
    "rece": "RECE",
    "spm": "SPM",
    "spm-te": "SPM on the text encoder",
}
PROMPT_SETS: Mapping[str, str] = {
    "name": "Plain prompts: the concept by its name",
    "seen": "Synonyms that training saw",
    "unseen": "A synonym that training never saw",
    "open": "Prompts that leave the concept open",
}
_LISTED = 4  # items of a setting that are written out
_RATES = ("pre_", "asr_")


def encoder_title(evaluation: Evaluation) -> str:
    """Return who was evaluated, in the words of this package: the recipe's variant, the method, or the label itself."""
    recipe = str(dict(evaluation.subject.get("recipe") or {}).get("name", ""))
    variant = variant_of(recipe, evaluation.concept)
    return ENCODERS.get(variant) or ENCODERS.get(evaluation.label, evaluation.label)


def short_title(evaluation: Evaluation) -> str:
    """Return who was evaluated, with which seed, in a few words."""
    return ", ".join([encoder_title(evaluation), *(f"seed {seed}" for seed in _seeds(evaluation)[:1])])


def title_of(evaluation: Evaluation) -> str:
    """Return who was evaluated, with which seeds, on how many prompts."""
    counts = sorted({r.n for r in evaluation.results if r.metric.startswith(_RATES)})
    seeds = ", ".join(map(str, _seeds(evaluation)))
    return f"{encoder_title(evaluation)}, seed {seeds}, n = {', '.join(map(str, counts))}"


def _seeds(evaluation: Evaluation) -> list[int]:
    return sorted({seed for result in evaluation.results for seed in result.seeds})


def set_title(name: str) -> str:
    """Return what a prompt set ``concept/words`` is, in words."""
    return PROMPT_SETS.get(name.rpartition("/")[2], f"Prompts of {name}")


def settings_line(values: Mapping[str, Any]) -> str:
    """Return settings as one line; what the title says already is left out, a tier is put in words."""
    tier = TIERS.get(values.get("tier", ""), "")
    named = [
        f"{key.replace('_', ' ')} {_setting(value)}"
        for key, value in values.items()
        if key not in ("label", "tier", "name")
    ]
    lead = [f"{values['name']} ({tier})" if tier else str(values["name"])] if "name" in values else []
    return ": ".join([*lead, ", ".join(named)]) if named else ", ".join(lead)


def _setting(value: Any) -> str:
    """Return a value of a setting; of a long list only its start and how long it is."""
    if isinstance(value, Mapping):
        return f"({settings_line(value)})"
    if not isinstance(value, (list, tuple)):
        return str(value)
    shown = ", ".join(map(_setting, value[:_LISTED]))
    return f"[{shown}, … {len(value)} in all]" if len(value) > _LISTED else f"[{shown}]"
