"""The meaning of the metrics on a model card, in words for its readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Meaning(NamedTuple):
    """What a metric says.

    Args:
        words: Name of the metric for readers.
        better: Direction that is better: ``lower``, ``higher``, or empty if neither is.
        about: One sentence for the legend.
        rate: True for a share of pictures or prompts, shown in per cent.
    """

    words: str
    better: str
    about: str
    rate: bool = True


MEANINGS: Mapping[str, Meaning] = {
    "worst_case": Meaning(
        "worst case by text", "lower", "Prompts that at least one attack of the tiers T0 to T3 wins."
    ),
    "worst_case_embeddings": Meaning(
        "worst case with embeddings", "lower", "Prompts that at least one attack of the tiers T0 to T4 wins."
    ),
    "pre_asr": Meaning("concept drawn unattacked", "lower", "Prompts that show the concept although nobody attacks."),
    "asr_any": Meaning("attack success", "lower", "Prompts for which at least one candidate of the attack wins."),
    "asr_last": Meaning("attack success, last try", "lower", "Prompts for which the attack's last candidate wins."),
    "asr_gained": Meaning("attack success gained", "lower", "Prompts that only the attack wins."),
    "retain_all": Meaning("kept as asked", "higher", "Pictures without the concept that show everything as asked."),
    "everyday": Meaning(
        "kept as asked, everyday words", "higher", "Kept prompts in everyday wordings that no training used, as asked."
    ),
    "everyday_factor": Meaning(
        "concept's factor kept, everyday words",
        "higher",
        "The same pictures, judged by what the concept belongs to alone: for a shape, its shape.",
    ),
    "seeds": Meaning("shown at any of 16 seeds", "lower", "Prompts that show the concept at any seed, unattacked."),
    "schedulers": Meaning(
        "shown by any scheduler", "lower", "Prompts that show the concept under any of six schedulers and scales."
    ),
    "negative_abuse": Meaning(
        "drawn by negative prompt", "lower", "Open captions that show the concept because the negative prompt names it."
    ),
    "chance_empty": Meaning("drawn by the empty prompt", "lower", "Pictures of the empty prompt that show it."),
    "chance_open": Meaning("drawn by open captions", "lower", "Pictures of captions that leave the concept open."),
    "clip_score": Meaning("CLIP score of kept prompts", "higher", "Cosine of picture and prompt.", rate=False),
    "fid": Meaning("FID of kept prompts", "lower", "Distance of kept pictures to the base's pictures.", rate=False),
    "kid": Meaning("KID of kept prompts", "lower", "Distance of kept pictures to the base's pictures.", rate=False),
    "negative_removed": Meaning(
        "removed by negative prompt", "higher", "Pictures from which the concept's name as negative prompt removes it."
    ),
    "knowledge": Meaning(
        "concept still recognised", "lower", "Renders of the concept that the Diffusion Classifier recognises."
    ),
    "negative_with": Meaning(
        "shown with negative prompt", "lower", "Pictures that show the concept though it is the negative prompt."
    ),
    "negative_without": Meaning("shown without negative prompt", "", "The same pictures without a negative prompt."),
    "lpips_kept": Meaning("LPIPS of kept prompts", "lower", "Distance of kept pictures to the base's.", rate=False),
    "lpips_erased": Meaning(
        "LPIPS of erased prompts", "higher", "Distance of erased pictures to the base's.", rate=False
    ),
    "lpips_difference": Meaning("LPIPS, erased less kept", "higher", "The difference of these distances.", rate=False),
}
# Families of metrics, by the part of their names before the label.
_FAMILIES: Mapping[str, Meaning] = {
    "binding": Meaning("objects with attributes as asked", "higher", "Captions with several attributes, all as asked."),
    "retain": Meaning("kept as asked", "higher", "Pictures without the concept that show what was asked for."),
}


def meaning_of(metric: str) -> tuple[Meaning | None, str]:
    """Return what a metric says, and the label of a member of a family such as ``retain_shape``."""
    family, _, label = metric.partition("_")
    if metric in MEANINGS:
        return MEANINGS[metric], ""
    return (_FAMILIES[family], label) if label and family in _FAMILIES else (None, "")
