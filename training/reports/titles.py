"""The titles of encoders, prompt sets and worst cases, and settings as one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.results import Evaluation
from ..evaluation.threat_model import TIERS
from ..recipes.variants import variant_of

# The names give the tiers, so that readers compare only bars of the same tiers.
WORST = "worst case, T0-T3"
WORST_EMBEDDINGS = "worst case, T0-T4"
# Titles of baselines, methods, and variants of a method's recipes.
ENCODERS: Mapping[str, str] = {
    "base": "base",
    "empty_prompt": "empty prompt",
    "word_filter": "word filter",
    "ablation": "Ablating Concepts",
    "ablation-te": "Ablating Concepts on token embeddings",
    "des": "DES",
    "sage": "DES with SAGE's terms",
    "doco": "DoCo",
    "doco-te": "DoCo on the text encoder",
    "esd": "ESD",
    "esd-unet": "ESD on the UNet",
    "advunlearn": "AdvUnlearn",
    "advunlearn-unet": "AdvUnlearn on the UNet",
    "hardened": "AdvUnlearn, hardened",
    "strict": "AdvUnlearn, strict",
    "pooled": "AdvUnlearn, against any text",
    "pooled-fast": "AdvUnlearn, against any text, without a UNet",
    "hirm": "HiRM-R",
    "hirm-s": "HiRM-S",
    "uce": "UCE",
    "race": "RACE",
    "race-te": "RACE on the text encoder",
    "rece": "RECE",
    "receler": "Receler",
    "speed": "SPEED",
    "speed-te": "SPEED as one matrix",
    "dp": "DP",
    "trce": "TRCE, first stage",
    "mace": "MACE, first stage",
    "s-grace": "S-GRACE",
    "s_grace": "S-GRACE",
    "spm": "SPM",
    "spm-te": "SPM on the text encoder",
}
PROMPT_SETS: Mapping[str, str] = {
    "name": "Plain prompts: the concept by its usual names",
    "seen": "Other names for it that training saw",
    "unseen": "Names for it that training never saw",
    "open": "Prompts that leave the concept open",
}
_QUICK = "-quick"  # end of the name of a run for a first look
_LISTED = 4  # number of items of a setting that are written out
_RATES = ("pre_", "asr_")


def encoder_title(evaluation: Evaluation) -> str:
    """Return the title of the evaluated encoder: that of the recipe's variant, of the method, or the label itself."""
    recipe = str(dict(evaluation.subject.get("recipe") or {}).get("name", ""))
    variant = variant_of(recipe, evaluation.concept)
    if variant.endswith(_QUICK) and (whole := ENCODERS.get(variant.removesuffix(_QUICK))):
        return f"{whole}, quick"
    return ENCODERS.get(variant) or ENCODERS.get(evaluation.label, evaluation.label)


def short_title(evaluation: Evaluation) -> str:
    """Return the title of the evaluated encoder with its first seed."""
    return ", ".join([encoder_title(evaluation), *(f"seed {seed}" for seed in _seeds(evaluation)[:1])])


def title_of(evaluation: Evaluation) -> str:
    """Return the title of the evaluated encoder with its seeds and the number of prompts."""
    counts = sorted({r.n for r in evaluation.results if r.metric.startswith(_RATES)})
    seeds = ", ".join(map(str, _seeds(evaluation)))
    return f"{encoder_title(evaluation)}, seed {seeds}, n = {', '.join(map(str, counts))}"


def _seeds(evaluation: Evaluation) -> list[int]:
    return sorted({seed for result in evaluation.results for seed in result.seeds})


def set_title(name: str) -> str:
    """Return the title of a prompt set ``concept/words``."""
    return PROMPT_SETS.get(name.rpartition("/")[2], f"Prompts of {name}")


def settings_line(values: Mapping[str, Any]) -> str:
    """Return settings as one line: the label is left out, because the title has it, and the tier is described."""
    tier = TIERS.get(values.get("tier", ""), "")
    named = [
        f"{key.replace('_', ' ')} {_setting(value)}"
        for key, value in values.items()
        if key not in ("label", "tier", "name")
    ]
    lead = [f"{values['name']} ({tier})" if tier else str(values["name"])] if "name" in values else []
    return ": ".join([*lead, ", ".join(named)]) if named else ", ".join(lead)


def _setting(value: Any) -> str:
    """Return the value of a setting; a long list gives only its start and its length."""
    if isinstance(value, Mapping):
        return f"({settings_line(value)})"
    if not isinstance(value, (list, tuple)):
        return str(value)
    shown = ", ".join(map(_setting, value[:_LISTED]))
    return f"[{shown}, … {len(value)} in all]" if len(value) > _LISTED else f"[{shown}]"
