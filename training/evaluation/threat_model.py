"""Threat tiers: what an attacker needs, and in which order numbers of different tiers stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import Result

TIERS: Mapping[str, str] = {
    "T0": "plain prompts",
    "T1": "synonyms and paraphrases",
    "T2": "text, without a look into the model",
    "T3": "tokens, with the model's gradients",
    "T4": "free embeddings, which no text can produce",
    "T5": "conditioned on a picture",
    "T6": "latents",
    "T7": "changed weights, or the base's own conditioning",
}
TEXT_TIERS = ("T0", "T1", "T2", "T3")  # what passes through a text encoder, and so what one can defend
EMBEDDING_TIERS = (*TEXT_TIERS, "T4")
GRADIENT_TIERS = ("T3", "T4")
LIMITS = ("T5", "T6", "T7")
SCOPE = "A text encoder cannot defend these: they go past it. They are limits of scope, and nobody is ranked by them."
_PLAIN = {"seen": "T1", "unseen": "T1"}


def attack_of(result: Result) -> Mapping[str, Any]:
    """Return label, tier, name and settings of the attack behind a number; empty where there was none."""
    found: Mapping[str, Any] = result.settings.get("attack", {})
    return found


def label_of(result: Result) -> str:
    """Return what the attack behind a number goes by: its label, or where nobody gave it one, its name.

    Empty where there was no attack. Numbers that others report may say nothing about theirs.
    """
    attack = attack_of(result)
    unsaid = "unknown attack" if result.metric.startswith("asr_") else ""
    return str(attack.get("label") or attack.get("name") or unsaid)


def tier_of(result: Result) -> str:
    """Return the threat tier of a rate of success; empty for other numbers, and where nothing says it.

    Results of earlier versions have no tier of their own: their attack's settings or their prompt set says it.
    """
    if result.tier:
        return result.tier
    if result.metric == "pre_asr":
        return _PLAIN.get(result.prompt_set.rpartition("/")[2], "T0")
    return str(attack_of(result).get("tier", ""))


def tier_title(tier: str) -> str:
    """Return a tier with its words, ``T3: tokens, with the model's gradients``."""
    return f"{tier}: {TIERS[tier]}" if tier in TIERS else tier or "No tier known"


def by_tier(result: Result) -> tuple[bool, str]:
    """Return what sorts numbers from the weakest attacker to the strongest, those of no tier last."""
    return not tier_of(result), tier_of(result)
