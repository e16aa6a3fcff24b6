"""The judgement of an attack's candidates, whose pictures are drawn and judged after the attack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..diffusion.sampling import packed, unpacked
from ..metrics.rates import margins_of
from ..protocols import Detector
from ..types import AttackResult, Candidate, Case, JudgedPicture, Verdict
from .judged_pictures import PictureArchive, pixels_sha256

DrawCandidates = Callable[[Sequence[Case], Sequence[Candidate]], Tensor]
Tokens = Callable[[str], Sequence[int]]
ReadAs = Callable[[str], Hashable]  # texts of equal value are the same text for a pipeline


@dataclass
class PictureJudge:
    """A detector that records every picture it is asked about.

    It judges what a picture file holds: the 256 levels of each pixel. So a second judgement of the file is the same.

    Args:
        detector: Detector that judges.
        archive: Archive that keeps the pictures; None keeps none.
        tokens: Function that returns the token ids of a text, without padding.
        asked: Index of a case to the pictures that its attack asked about; filled by ``query``.
        drafted: Index of a case to the number of drafts that its attack asked for; filled by ``draft``.
    """

    detector: Detector
    archive: PictureArchive | None = None
    tokens: Tokens = field(default=lambda _: ())
    asked: dict[int, list[JudgedPicture]] = field(default_factory=dict)
    drafted: dict[int, int] = field(default_factory=dict)
    _asked_before: dict[int, int] = field(default_factory=dict)

    def judge(
        self, cases: Sequence[Case], candidates: Sequence[Candidate], places: Sequence[int], pictures: Tensor
    ) -> list[JudgedPicture]:
        """Judge one picture (3, H, W) in [0, 1] for each case and candidate, and return the records."""
        names = [f"{case.index}-{place}" for case, place in zip(cases, places, strict=True)]
        return self._records(cases, candidates, places, (names, packed(pictures)))

    def query(self, cases: Sequence[Case], texts: Sequence[str], pictures: Tensor) -> Tensor:
        """Judge pictures (B, 3, H, W) in [0, 1] that an attack asks about, and return their smallest margins (B,)."""
        places = [self._next(case) for case in cases]
        names = [f"{case.index}-q{place}" for case, place in zip(cases, places, strict=True)]
        candidates = [Candidate("text", text, place) for text, place in zip(texts, places, strict=True)]
        found = self._records(cases, candidates, places, (names, packed(pictures)))
        for case, one in zip(cases, found, strict=True):
            self.asked.setdefault(case.index, []).append(replace(one, queried=True))
        return torch.tensor([one.margin for one in found])

    def draft(self, cases: Sequence[Case], pictures: Tensor) -> Tensor:
        """Score drafts (B, 3, H, W) in [0, 1] and return their smallest margins (B,); only their number is recorded."""
        for case in cases:
            self.drafted[case.index] = self.drafted.get(case.index, 0) + 1
        return torch.stack([*margins_of(self.detector, unpacked(packed(pictures))).values()]).amin(0)

    def of_text(self, picture: JudgedPicture, text: str) -> JudgedPicture:
        """Return the record of a picture for another text that draws the same one."""
        return replace(picture, text=text, ids=tuple(self.tokens(text)))

    def _next(self, case: Case) -> int:
        place = self._asked_before.get(case.index, 0)
        self._asked_before[case.index] = place + 1
        return place

    def taken(self) -> dict[int, list[JudgedPicture]]:
        """Return the pictures that were asked about since the last call, by the index of their case."""
        found, self.asked = self.asked, {}
        return found

    def taken_drafts(self) -> dict[int, int]:
        """Return the number of drafts that were asked for since the last call, by the index of their case."""
        found, self.drafted = self.drafted, {}
        return found

    def _records(
        self,
        cases: Sequence[Case],
        candidates: Sequence[Candidate],
        places: Sequence[int],
        named: tuple[Sequence[str], Tensor],
    ) -> list[JudgedPicture]:
        names, pixels = named
        margins = {name: found.tolist() for name, found in margins_of(self.detector, unpacked(pixels)).items()}
        records = []
        for i, (case, candidate) in enumerate(zip(cases, candidates, strict=True)):
            text = candidate.value if isinstance(candidate.value, str) else ""
            ids = tuple(self.tokens(text)) if isinstance(candidate.value, str) else ()
            scores = {name: float(values[i]) for name, values in margins.items()}
            hit = all(score >= 0 for score in scores.values())
            kept = "" if self.archive is None else self.archive.add(names[i], pixels[i])
            about = (places[i], candidate.step, candidate.kind, text, ids, case.seed)
            record = JudgedPicture(*about, scores, hit, kept, pixels_sha256(pixels[i]), norm=_norm(candidate))
            records.append(record)
        return records


def _norm(candidate: Candidate) -> float | None:
    """Return the largest norm of the vectors of token embeddings (L, D); None for any other candidate."""
    if candidate.kind != "token_embeddings" or not isinstance(candidate.value, Tensor):
        return None
    return float(candidate.value.float().norm(dim=-1).max())


@dataclass
class _CaseJudgement:
    """The judgement of one case, candidate by candidate in the order of the attack."""

    case: Case
    result: AttackResult
    before: bool
    read_as: ReadAs
    pictures: list[JudgedPicture] = field(default_factory=list)
    first: Candidate | None = None
    last: bool = False
    spent: int = 0
    drawn: int = 0
    _known: dict[Hashable, JudgedPicture] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.result.candidates

    def open(self, place: int) -> bool:
        """Return True if the candidate at ``place`` can still change the verdict."""
        if self.before or place >= len(self.candidates):
            return False
        return self.first is None or place == len(self.candidates) - 1

    def remembered(self, place: int) -> JudgedPicture | None:
        """Return the picture of a text at an earlier place that the pipeline reads as the same."""
        key = self._key(place)
        return None if key is None else self._known.get(key)

    def _key(self, place: int) -> Hashable | None:
        value = self.candidates[place].value
        return (self.read_as(value),) if isinstance(value, str) else None

    def settle(self, place: int, picture: JudgedPicture) -> None:
        candidate = self.candidates[place]
        self.pictures.append(replace(picture, place=place, step=candidate.step))
        if (key := self._key(place)) is not None:
            self._known.setdefault(key, self.pictures[-1])
        if picture.hit and self.first is None:
            self.first = candidate
        if place == len(self.candidates) - 1:
            self.last = picture.hit

    def _step(self) -> int | None:
        if self.before:
            return 0
        return None if self.first is None else self.first.step

    def verdict(self, asked: Sequence[JudgedPicture], drafts: int) -> Verdict:
        shown = (self.first or self.candidates[-1]).value
        pictures = (*asked, *self.pictures)
        return Verdict(
            index=self.case.index,
            prompt=self.case.prompt,
            seed=self.case.seed,
            before=self.before,
            any=self.before or self.first is not None,
            last=self.before or self.last,
            step=self._step(),
            text=shown if isinstance(shown, str) else "",
            pictures=pictures,
            candidates=len(self.candidates),
            tries=self.drawn + len(asked),
            unet_calls=self.result.unet_calls + self.spent,
            best=best_of(pictures),
            drafts=drafts,
        )


def best_of(pictures: Sequence[JudgedPicture]) -> int | None:
    """Return the place of the first candidate that succeeds, or of the one with the highest margin; None without one.

    Pictures of queries do not count.
    """
    own = [i for i, one in enumerate(pictures) if not one.queried]
    won = next((i for i in own if pictures[i].hit), None)
    return won if won is not None else max(own, key=lambda i: pictures[i].margin, default=None)


def judge_candidates(
    cases: Sequence[Case],
    results: Sequence[AttackResult],
    before: Sequence[bool],
    *,
    draw: DrawCandidates,
    judge: PictureJudge,
    cost: Callable[[Candidate], int] = lambda _: 1,
    read_as: ReadAs = str,
) -> tuple[list[Verdict], int]:
    """Draw and judge an attack's candidates in order, as long as they can change the verdict.

    A case that succeeds without the attack is not drawn again. After the first success of a case, only its last
    candidate is still judged. Texts that the pipeline reads as the same share one picture, since the seed is the same.

    Args:
        cases: Attacked cases.
        results: Result of the attack for each case.
        before: One flag for each case, True if it succeeds without the attack.
        draw: Function from cases and one candidate for each to pictures (B, 3, H, W) in [0, 1].
        judge: Detector that judges the pictures and records them.
        cost: Function that returns the cost of drawing a candidate; by default 1.
        read_as: Function from a text to what the pipeline reads, for example its token ids; by default the text.

    Returns:
        One verdict per case, in order, and the total cost of drawing; by default the number of pictures.

    Raises:
        ValueError: If the lengths differ, or the attack proposed no candidate for a case.
    """
    empty = [case.index for case, result in zip(cases, results, strict=True) if not result.candidates]
    if empty:
        raise ValueError(f"expected at least one candidate per case, found none for cases {empty}")
    rows = [_CaseJudgement(c, r, b, read_as) for c, r, b in zip(cases, results, before, strict=True)]
    for place in range(max(len(row.candidates) for row in rows)):
        for row in rows:
            if row.open(place) and (known := row.remembered(place)) is not None:
                row.settle(place, judge.of_text(known, str(row.candidates[place].value)))
        fresh = [d for d in rows if d.open(place) and d.remembered(place) is None]
        if fresh:
            found = [d.candidates[place] for d in fresh]
            pictures = draw([d.case for d in fresh], found)
            records = judge.judge([d.case for d in fresh], found, [place] * len(fresh), pictures)
            for row, record in zip(fresh, records, strict=True):
                row.settle(place, record)
                row.spent += cost(row.candidates[place])
                row.drawn += 1
    asked, drafts = judge.taken(), judge.taken_drafts()
    verdicts = [row.verdict(asked.get(row.case.index, ()), drafts.get(row.case.index, 0)) for row in rows]
    return verdicts, sum(row.spent for row in rows)
