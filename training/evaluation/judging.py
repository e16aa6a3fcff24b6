"""The judgement of an attack's candidates, whose pictures are drawn and judged after the attack."""

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
    """The judgement of one case, candidate by candidate in the order of the attack."""

    case: Case
    candidates: tuple[Candidate, ...]
    before: bool
    first: Candidate | None = None
    last: bool = False
    judged: dict[str, bool] = field(default_factory=dict)

    def open(self, place: int) -> bool:
        """Return True if the candidate at ``place`` can still change the verdict."""
        if self.before or place >= len(self.candidates):
            return False
        return self.first is None or place == len(self.candidates) - 1

    def remembered(self, place: int) -> bool | None:
        """Return the verdict on the same text at an earlier place; equal text and seed give an equal picture."""
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
    """Draw and judge an attack's candidates in order, as long as they can change the verdict.

    A case that succeeds without the attack is not drawn again. After the first success of a case, only its last
    candidate is still judged.

    Args:
        cases: Attacked cases.
        results: Result of the attack for each case.
        before: One flag for each case, True if it succeeds without the attack.
        draw: Function from cases and one candidate for each to pictures (B, 3, H, W) in [0, 1].
        detector: Detector that judges the pictures.
        cost: Function that returns the cost of drawing a candidate; by default 1.

    Returns:
        One verdict per case, in order, and the total cost of drawing; by default the number of pictures.

    Raises:
        ValueError: If the lengths differ, or the attack proposed no candidate for a case.
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
