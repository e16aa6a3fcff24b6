"""Black-box beam search over readable additions to the prompt, guided by the scores of finished pictures alone.

The threat of RPG-RT (Cao et al., NeurIPS 2025) and AutoPrompt (arXiv:2510.24034), with a word list where they have a
language model.
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
_TRIES = 10  # rounds drawn in search of a text not asked for before, from an ever wider beam


@dataclass(frozen=True)
class BlackBox:
    """Adds words before or after a prompt, asks how the picture scores, and goes on from the best.

    A round takes each of a case's ``beam`` best texts, adds ``proposals`` random words or phrases to it, one each, at
    either end, and queries those that it has not asked for before; if there are none, the beam widens. A case is done
    when a picture succeeds, or its budget is spent. Its best text is the only candidate: as the judge draws the same
    text with the same seed, what succeeded in a query succeeds again.

    Departures from RPG-RT and AutoPrompt: no language model and no training, the prompt is kept word for word, and
    the scores of the detector itself guide the search, so that nothing is lost to a proxy.

    Args:
        words: Readable words or phrases to add.
        neighbours: More of them, near the concept: if there are any, every second proposal is one, on average.
        budget: Queries per case at most.
        beam: Texts that a round goes on from.
        proposals: Additions tried for each of them.
        batch: Cases attacked at once; no case's result depends on it beyond rounding.
    """

    name: ClassVar[str] = "black_box"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ("queries",)
    budget_fields: ClassVar[tuple[str, ...]] = ("budget",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("budget",)

    words: tuple[str, ...]
    neighbours: tuple[str, ...] = ()
    budget: int = 60
    beam: int = 3
    proposals: int = 4
    batch: int = 50

    def __post_init__(self) -> None:
        if not self.words or min(self.budget, self.beam, self.proposals, self.batch) < 1:
            raise ValueError(f"expected words, and budget, beam, proposals and batch of at least 1, found {self}")
        odd = [word for word in (*self.words, *self.neighbours) if not _READABLE.fullmatch(word)]
        if odd:
            raise ValueError(f"expected readable words of the letters a to z, found {odd}: leave them out")

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: The model under attack, with its query function; only this and the tokenizer are used.
            cases: Prompts; no reference latents are needed.
            seed: Of the run; with a case's own seed it fixes all that is random about that case.

        Returns:
            One result per case with its best text and the number of queries spent.

        Raises:
            ValueError: If the target answers no queries, or a prompt leaves no room for any addition.
        """
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        return [result for part in parts for result in self._together(target, cases[part], seed)]

    def _together(self, target: TargetModel, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        hunts = [_BeamSearch(self, target, case, case_generator(seed, case, self.name)) for case in cases]
        while asked := [(hunt, text) for hunt in hunts for text in hunt.propose()]:
            margins = target.query([text for _, text in asked], [hunt.case for hunt, _ in asked]).tolist()
            for (hunt, text), margin in zip(asked, margins, strict=True):
                hunt.margins[text] = margin
        return [hunt.result() for hunt in hunts]


@dataclass
class _BeamSearch:
    """The search on one case: every text asked for and its margin, in the order asked; over when it says so once."""

    attack: BlackBox
    target: TargetModel
    case: Case
    generator: Generator
    margins: dict[str, float] = field(default_factory=dict)
    over: bool = False

    def propose(self) -> list[str]:
        """Return the texts of the next round, none of them asked for before; empty when the search is over."""
        left = self.attack.budget - len(self.margins)
        succeeded = max(self.margins.values(), default=-1.0) >= 0
        widths = [] if self.over or succeeded else [self.attack.beam * n for n in range(1, _TRIES + 1)]
        found: list[str] = next(filter(None, (self._round(width, left) for width in widths)), [])
        self.over = not found  # for good: else a case would go on for as long as its neighbours do
        return found

    def _round(self, width: int, left: int) -> list[str]:
        ranked = sorted(self.margins, key=lambda text: -self.margins[text])  # stable: the earlier of equals is first
        beam = ranked[:width] or [self.case.prompt]
        added = [self._added(text) for text in beam for _ in range(self.attack.proposals)]
        return [text for text in dict.fromkeys(added) if text not in self.margins and self._fits(text)][:left]

    def _added(self, text: str) -> str:
        near, front = torch.rand(2, generator=self.generator).tolist()
        words = self.attack.neighbours if self.attack.neighbours and near < 0.5 else self.attack.words
        word = words[int(torch.randint(len(words), (), generator=self.generator))]
        return f"{word} {text}" if front < 0.5 else f"{text} {word}"

    def _fits(self, text: str) -> bool:
        return len(self.target.tokenizer(text).input_ids) <= self.target.max_length

    def result(self) -> AttackResult:
        if not self.margins:
            raise ValueError(
                f"expected room for an addition to the prompt {self.case.prompt!r} in {self.target.max_length} "
                "positions, found none: shorten the prompt or give shorter words"
            )
        asked = list(self.margins)
        best = max(asked, key=self.margins.__getitem__)
        candidate = Candidate("text", best, asked.index(best) + 1)
        return AttackResult((candidate,), queries=len(asked), unet_calls=0)
