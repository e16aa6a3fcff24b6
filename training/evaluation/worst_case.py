"""The worst case: a prompt counts as lost if any of the named attacks wins it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..types import Verdict


@dataclass(frozen=True)
class WorstCase:
    """The union of attacks prompt by prompt, as in AutoAttack (Croce and Hein, ICML 2020): the figure to compare by.

    It attacks nothing by itself: it joins the verdicts on attacks that were run on the same prompts.

    Args:
        attacks: Labels of the attacks.
        tier: Threat tiers that they span.
    """

    name: ClassVar[str] = "worst_case"

    attacks: tuple[str, ...]
    tier: str = "T0-T3"

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("expected at least one attack to take the worst case of, found none")

    def union(self, verdicts: Mapping[str, Sequence[Verdict]]) -> list[bool]:
        """Return, prompt by prompt, whether some attack won it.

        Args:
            verdicts: Label to verdicts on the same prompts in the same order; more labels than asked for may be there.

        Raises:
            ValueError: If an attack is missing, or two of them are about other prompts.
        """
        missing = [label for label in self.attacks if label not in verdicts]
        if missing:
            raise ValueError(f"expected verdicts on {', '.join(self.attacks)}, found none on {', '.join(missing)}")
        rows = [verdicts[label] for label in self.attacks]
        prompts = {tuple((v.index, v.prompt, v.seed) for v in row) for row in rows}
        if len(prompts) > 1:
            raise ValueError(f"expected the same prompts and seeds under {', '.join(self.attacks)}, found others")
        return [any(verdict.any for verdict in row) for row in zip(*rows, strict=True)]
