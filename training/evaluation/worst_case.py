"""The worst case: a prompt counts as lost if any of the named attacks wins it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..types import Verdict


@dataclass(frozen=True)
class WorstCase:
    """The union of attacks prompt by prompt, as in AutoAttack (Croce and Hein, ICML 2020).

    Encoders are compared by this number. It needs no attack of its own: ``union`` joins the verdicts on attacks that
    ran on the same prompts. This class is the record of the union in the results.

    Args:
        attacks: Labels of the attacks.
        tier: Threat tiers that the attacks span.

    Raises:
        ValueError: If there is no attack.
    """

    name: ClassVar[str] = "worst_case"

    attacks: tuple[str, ...]
    tier: str = "T0-T3"

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("expected at least one attack to take the worst case of, found none: name one")


def union(verdicts: Mapping[str, Sequence[Verdict]], labels: Collection[str]) -> list[bool]:
    """Return one flag for each prompt: True if at least one attack won it.

    Args:
        verdicts: Label to verdicts on the same prompts in the same order; further labels are ignored.
        labels: Labels of the attacks to join; without labels the result is empty.

    Raises:
        ValueError: If an attack is missing, or two attacks ran on different prompts.
    """
    missing = [label for label in labels if label not in verdicts]
    if missing:
        raise ValueError(f"expected verdicts on {', '.join(labels)}, found none on {', '.join(missing)}: run it")
    rows = [verdicts[label] for label in labels]
    prompts = {tuple((v.index, v.prompt, v.seed) for v in row) for row in rows}
    if len(prompts) > 1:
        raise ValueError(
            f"expected the same prompts and seeds under {', '.join(labels)}, found others: evaluate them together"
        )
    return [any(verdict.any for verdict in row) for row in zip(*rows, strict=True)]
