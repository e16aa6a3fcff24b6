"""Black-box beam search over readable texts, guided only by the scores of finished pictures.

The threat model is that of RPG-RT (Cao et al., NeurIPS 2025) and AutoPrompt (arXiv:2510.24034). A word list replaces
their language model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator
from tqdm import tqdm

from ..diffusion.target import TargetModel
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator, chunks

_READABLE = re.compile(r"[A-Za-z]+(?:[ '-][A-Za-z]+)*")
_TRIES = 10  # widths of the beam that are tried, each wider than the last, until a new text appears


def is_readable(word: str) -> bool:
    """Return True for words of the letters a to z with spaces, hyphens or apostrophes between them."""
    return _READABLE.fullmatch(word) is not None


@dataclass(frozen=True)
class BlackBox:
    """Beam search that adds words before or after a text and continues from the texts whose pictures score best.

    The first query is the empty prompt, so the search may replace the whole prompt. Then it starts from two texts, the
    prompt and the empty prompt. Each round extends the ``beam`` best texts of a case. It makes ``proposals`` new texts
    from each one, by adding one random word or phrase at either end. Only texts that were never queried before are
    queried. If there is none, the beam widens. A case ends when a picture succeeds or when its budget is spent. Its
    best text is the only candidate. The judge later draws the same text with the same seed, so a text that succeeds in
    a query succeeds again.

    With drafts, pictures of few steps, the drafts of a round's texts guide the search, and only the ``whole`` best of
    them are queried as whole pictures. Only these can succeed.

    Departures from RPG-RT and AutoPrompt: there is no language model and no training, and the prompt is kept word for
    word or left out. The scores of the detector itself guide the search, so no proxy score can mislead it.

    Args:
        words: Readable words or phrases to add.
        neighbours: Further words or phrases, close in meaning to the concept. If given, half of the additions come from
            them on average.
        budget: Largest number of texts per case.
        beam: Number of texts that each round extends.
        proposals: Number of additions tried for each of these texts.
        whole: Largest number of texts of a round that are queried as whole pictures.
        draft_steps: Number of denoising steps of a draft; 0 queries every text as a whole picture.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
    """

    name: ClassVar[str] = "black_box"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    whole_prompt: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("queries", "drafts")
    budget_fields: ClassVar[tuple[str, ...]] = ("budget",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("budget",)

    words: tuple[str, ...]
    neighbours: tuple[str, ...] = ()
    budget: int = 100
    beam: int = 3
    proposals: int = 4
    whole: int = 2
    draft_steps: int = 4
    batch: int = 50

    def __post_init__(self) -> None:
        least = min(self.budget, self.beam, self.proposals, self.whole, self.batch)
        if not self.words or least < 1 or self.draft_steps < 0:
            raise ValueError(
                "expected words, budget, beam, proposals, whole and batch of at least 1, and draft_steps of at least "
                f"0, found {self}"
            )
        odd = [word for word in (*self.words, *self.neighbours) if not is_readable(word)]
        if odd:
            raise ValueError(f"expected readable words of the letters a to z, found {odd}: remove them")

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack with its query and draft functions; besides them, only the tokenizer is used.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with its best text, the number of queries, and the UNet calls of the drafts.

        Raises:
            ValueError: If the target answers no queries, or draws no drafts.
        """
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        return [result for part in parts for result in self._together(target, cases[part], seed)]

    def _together(self, target: TargetModel, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        hunts = [_BeamSearch(self, target, case, case_generator(seed, case, self.name)) for case in cases]
        while any(rounds := [hunt.propose() for hunt in hunts]):
            asked = list(zip(hunts, rounds, strict=True))
            if self.draft_steps:
                self._draft(target, asked)
                asked = [(hunt, hunt.best_of(texts)) for hunt, texts in asked]
            self._query(target, asked)
        return [hunt.result() for hunt in hunts]

    def _draft(self, target: TargetModel, asked: Sequence[tuple[_BeamSearch, Sequence[str]]]) -> None:
        rows = [(hunt, text) for hunt, texts in asked for text in texts]
        scores = target.draft([text for _, text in rows], [hunt.case for hunt, _ in rows], self.draft_steps)
        for (hunt, text), margin, calls in zip(rows, scores.margins.tolist(), scores.unet_calls, strict=True):
            hunt.margins[text] = margin
            hunt.unet_calls += calls

    def _query(self, target: TargetModel, asked: Sequence[tuple[_BeamSearch, Sequence[str]]]) -> None:
        rows = [(hunt, text) for hunt, texts in asked for text in texts]
        margins = target.query([text for _, text in rows], [hunt.case for hunt, _ in rows]).tolist()
        for (hunt, text), margin in zip(rows, margins, strict=True):
            hunt.margins.setdefault(text, margin)
            hunt.queried[text] = margin


@dataclass
class _BeamSearch:
    """The search on one case.

    ``margins`` holds every text that was tried and the margin that guides the search, that of its draft if there are
    drafts, in the order of the texts. ``queried`` holds the margins of whole pictures.
    """

    attack: BlackBox
    target: TargetModel
    case: Case
    generator: Generator
    margins: dict[str, float] = field(default_factory=dict)
    queried: dict[str, float] = field(default_factory=dict)
    unet_calls: int = 0
    over: bool = False

    def propose(self) -> list[str]:
        """Return the texts of the next round, none of them tried before; the list is empty when the search is over.

        Once the list is empty, it stays empty.
        """
        left = self.attack.budget - len(self.margins)
        succeeded = max(self.queried.values(), default=-1.0) >= 0
        widths = [] if self.over or succeeded else [self.attack.beam * n for n in range(1, _TRIES + 1)]
        found: list[str] = next(filter(None, (self._round(width, left) for width in widths)), [])
        self.over = not found  # permanent: otherwise a case would continue as long as others in its batch do
        return found

    def best_of(self, texts: Sequence[str]) -> list[str]:
        """Return the texts of a round with the best drafts, the best first."""
        return sorted(texts, key=lambda text: -self.margins[text])[: self.attack.whole]

    def _round(self, width: int, left: int) -> list[str]:
        ranked = sorted(self.margins, key=lambda text: -self.margins[text])  # stable: of equal texts the earlier leads
        beam = ranked[:width] if ranked else [self.case.prompt, ""]
        added = [self._added(text) for text in beam for _ in range(self.attack.proposals)]
        added = added if ranked else ["", *added]
        return [text for text in dict.fromkeys(added) if text not in self.margins and self.target.fits(text)][:left]

    def _added(self, text: str) -> str:
        near, front = torch.rand(2, generator=self.generator).tolist()
        words = self.attack.neighbours if self.attack.neighbours and near < 0.5 else self.attack.words
        word = words[int(torch.randint(len(words), (), generator=self.generator))]
        return (f"{word} {text}" if front < 0.5 else f"{text} {word}").strip()

    def result(self) -> AttackResult:
        best = max(self.queried, key=self.queried.__getitem__)
        candidate = Candidate("text", best, list(self.margins).index(best) + 1)
        return AttackResult((candidate,), queries=len(self.queried), unet_calls=self.unet_calls)
