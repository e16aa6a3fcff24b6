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


@dataclass(frozen=True)
class BlackBox:
    """Beam search that adds words before or after a text and continues from the texts whose pictures score best.

    The first query is the empty prompt, so the search may replace the whole prompt. Then it starts from two texts, the
    prompt and the empty prompt. Each round extends the ``beam`` best texts of a case. It makes ``proposals`` new texts
    from each one, by adding one random word or phrase at either end. Only texts that were never queried before are
    queried. If there is none, the beam widens. A case ends when a picture succeeds or when its budget is spent. Its
    best text is the only candidate. The judge later draws the same text with the same seed, so a text that succeeds in
    a query succeeds again.

    Departures from RPG-RT and AutoPrompt: there is no language model and no training, and the prompt is kept word for
    word or left out. The scores of the detector itself guide the search, so no proxy score can mislead it.

    Args:
        words: Readable words or phrases to add.
        neighbours: Further words or phrases, close in meaning to the concept. If given, half of the additions come from
            them on average.
        budget: Largest number of queries per case.
        beam: Number of texts that each round extends.
        proposals: Number of additions tried for each of these texts.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
    """

    name: ClassVar[str] = "black_box"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    whole_prompt: ClassVar[bool] = True
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
            raise ValueError(f"expected readable words of the letters a to z, found {odd}: remove them")

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack with its query function; only the query function and the tokenizer are used.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with its best text and the number of queries spent.

        Raises:
            ValueError: If the target answers no queries.
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
    """The search on one case; ``margins`` holds every queried text and its margin, in the order of the queries."""

    attack: BlackBox
    target: TargetModel
    case: Case
    generator: Generator
    margins: dict[str, float] = field(default_factory=dict)
    over: bool = False

    def propose(self) -> list[str]:
        """Return the texts of the next round, none of them queried before; the list is empty when the search is over.

        Once the list is empty, it stays empty.
        """
        left = self.attack.budget - len(self.margins)
        succeeded = max(self.margins.values(), default=-1.0) >= 0
        widths = [] if self.over or succeeded else [self.attack.beam * n for n in range(1, _TRIES + 1)]
        found: list[str] = next(filter(None, (self._round(width, left) for width in widths)), [])
        self.over = not found  # permanent: otherwise a case would continue as long as others in its batch do
        return found

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
        asked = list(self.margins)
        best = max(asked, key=self.margins.__getitem__)
        candidate = Candidate("text", best, asked.index(best) + 1)
        return AttackResult((candidate,), queries=len(asked), unet_calls=0)
