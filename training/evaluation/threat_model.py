"""Threat model tiers: the access that an attacker needs, and the order of numbers of different tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import Result

TIERS: Mapping[str, str] = {
    "T0": "plain prompts",
    "T1": "synonyms and paraphrases",
    "T2": "text, and scores of the pictures",
    "T3": "tokens, with the model's gradients",
    "T4": "free embeddings of bounded norm, which no text can produce",
    "T5": "conditioned on a picture",
    "T6": "latents",
    "T7": "changed weights, free embeddings without bound, or the base's own conditioning",
}
TEXT_TIERS = ("T0", "T1", "T2", "T3")  # attacks that pass through the text encoder, which can defend against them
EMBEDDING_TIERS = (*TEXT_TIERS, "T4")
GRADIENT_TIERS = ("T3", "T4")
LIMITS = ("T5", "T6", "T7")
SCOPE = (
    "These attacks bypass the text encoder, so it cannot defend against them. They are limits of scope and do not "
    "count in the ranking."
)
_PLAIN = {"seen": "T1", "unseen": "T1"}


def attack_of(result: Result) -> Mapping[str, Any]:
    """Return label, tier, name and settings of the attack behind a number; empty without an attack."""
    found: Mapping[str, Any] = result.settings.get("attack", {})
    return found


def label_of(result: Result) -> str:
    """Return the label of the attack behind a number, or its name if it has no label.

    The text is empty without an attack, and ``unknown attack`` for a reported number that does not name its attack.
    """
    attack = attack_of(result)
    unsaid = "unknown attack" if result.metric.startswith("asr_") else ""
    return str(attack.get("label") or attack.get("name") or unsaid)


def tier_of(result: Result) -> str:
    """Return the threat tier of a rate of success; empty for other numbers, and if no tier is recorded.

    Results of earlier versions have no tier of their own. Their tier follows from the attack's settings or from the
    prompt set.
    """
    if result.tier:
        return result.tier
    if result.metric == "pre_asr":
        return _PLAIN.get(result.prompt_set.rpartition("/")[2], "T0")
    return str(attack_of(result).get("tier", ""))


def tier_title(tier: str) -> str:
    """Return a tier with its description, ``T3: tokens, with the model's gradients``."""
    return f"{tier}: {TIERS[tier]}" if tier in TIERS else tier or "No tier known"


def by_tier(result: Result) -> tuple[bool, str]:
    """Return a sort key: weakest attacker first, numbers without a tier last."""
    return not tier_of(result), tier_of(result)
