"""Who attacks does not judge: pictures of an attack's candidates, drawn and judged after the attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..metrics.rates import detect
from ..protocols import Detector
from ..types import AttackResult, Candidate, Case, Verdict

DrawCandidates = Callable[[Sequence[Case], Sequence[Candidate]], Tensor]


@dataclass
class _CaseJudgement:
    """One case under judgement, candidate by candidate, in the order found."""

    case: Case
    candidates: tuple[Candidate, ...]
    before: bool
    first: Candidate | None = None
    last: bool = False
    judged: dict[str, bool] = field(default_factory=dict)

    def open(self, place: int) -> bool:
        """Whether the candidate at ``place`` can still change the verdict."""
        if self.before or place >= len(self.candidates):
            return False
        return self.first is None or place == len(self.candidates) - 1

    def remembered(self, place: int) -> bool | None:
        """The verdict on the same text at an earlier place: equal text and seed give an equal picture."""
        value = self.candidates[place].value
        return self.judged.get(value) if isinstance(value, str) else None

    def settle(self, place: int, hit: bool) -> None:
        candidate = self.candidates[place]
        if isinstance(candidate.value, str):
            self.judged[candidate.value] = hit
        if hit and self.first is None:
            self.first = candidate
        if place == len(self.candidates) - 1:
            self.last = hit

    def _step(self) -> int | None:
        if self.before:
            return 0
        return None if self.first is None else self.first.step

    def verdict(self) -> Verdict:
        shown = (self.first or self.candidates[-1]).value
        return Verdict(
            index=self.case.index,
            prompt=self.case.prompt,
            seed=self.case.seed,
            before=self.before,
            any=self.before or self.first is not None,
            last=self.before or self.last,
            step=self._step(),
            text=shown if isinstance(shown, str) else "",
        )


def judge_candidates(
    cases: Sequence[Case],
    results: Sequence[AttackResult],
    before: Sequence[bool],
    *,
    draw: DrawCandidates,
    detector: Detector,
    cost: Callable[[Candidate], int] = lambda _: 1,
) -> tuple[list[Verdict], int]:
    """Draw and judge what an attack found, in the order found, and stop where the verdict is settled.

    A case that succeeds without the attack is settled at once; after its first success only a case's last candidate
    is still looked at.

    Args:
        cases: What was attacked.
        results: What the attack found for each.
        before: Whether each succeeds unattacked.
        draw: Maps cases and one candidate for each to pictures (B, 3, H, W) in [0, 1].
        detector: What judges.
        cost: Of drawing a candidate.

    Returns:
        One verdict per case, in order, and what drawing has cost; by default the number of pictures.

    Raises:
        ValueError: If the lengths differ, or an attack proposed nothing for a case.
    """
    empty = [case.index for case, result in zip(cases, results, strict=True) if not result.candidates]
    if empty:
        raise ValueError(f"expected at least one candidate per case, found none for cases {empty}")
    rows = [_CaseJudgement(c, r.candidates, b) for c, r, b in zip(cases, results, before, strict=True)]
    spent = 0
    for place in range(max(len(row.candidates) for row in rows)):
        for row in rows:
            if row.open(place) and (hit := row.remembered(place)) is not None:
                row.settle(place, hit)
        fresh = [d for d in rows if d.open(place) and d.remembered(place) is None]
        if fresh:
            pictures = draw([d.case for d in fresh], [d.candidates[place] for d in fresh])
            for row, hit in zip(fresh, detect(detector, pictures), strict=True):
                row.settle(place, hit)
            spent += sum(cost(row.candidates[place]) for row in fresh)
    return [row.verdict() for row in rows], spent
