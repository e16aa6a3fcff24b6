"""Word swap: other words in the concept's place, ranked without pictures and then tried on one prompt.

The attack is ours. Its ranking is that of Ring-A-Bell (Tsai et al., ICLR 2024), the distance of conditionings, over
readable words instead of token sequences. Drafts for one prompt choose the words for all prompts, and drafts for each
prompt choose those that are drawn whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..diffusion.target import TargetModel
from ..prompts.concept_words import in_place_of, naming
from ..prompts.vocabulary_words import whole_words
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator, chunks
from .common.drafts import Screened, best_by_draft
from .common.groups import shares
from .common.seen_distance import seen_distance
from .common.whole_prompts import EMPTY_PROMPT

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Swapped = Literal["concept", "caption"]
Ranking = Literal["base", "attacked"]


@dataclass(frozen=True)
class WordSwap:
    """Attack that puts one or two other words in the place of the concept's words.

    One case is chosen at random among those that do not succeed by themselves. Every word and every ordered pair of
    words is put into its prompt, and the texts are ranked by their conditioning. The goal is the base's conditioning of
    the prompt that names the concept, and the distance is that of the UNet's K and V matrices. At the seed of that
    case, drafts of the ``drawn`` nearest texts are drawn, pictures of few steps. The ``kept`` phrases of the highest
    scores are put into every prompt. So all cases share one search, and a result depends on the whole list of cases.
    Drafts at the seed of each case choose the ``whole`` texts that are its candidates, the best first.

    The concept's own words are no candidates, and no text contains them. Pairs are made of the ``pool`` nearest words
    if there are more words than that.

    Args:
        named: Words for the concept, which the phrases replace.
        words: Words of the phrases; if empty, all whole words of the tokenizer's vocabulary.
        place: Text that a phrase replaces: ``concept`` for the concept's words alone, ``caption`` for the whole prompt.
            In the second case, the empty prompt is the first candidate.
        ranking: Encoder that ranks: ``base``, which is public, or ``attacked``, for which the attacker needs its
            weights.
        drawn: Number of texts that are drawn and scored at one case.
        kept: Number of phrases tried on every case.
        whole: Largest number of texts drawn whole for each case.
        draft_steps: Number of denoising steps of a draft. With 0 the ``drawn`` texts are queried as whole pictures, and
            all ``kept`` phrases are candidates for every case.
        pool: Largest number of words that are combined into pairs.
        batch: Number of texts encoded at once; it changes a ranking only by rounding.
    """

    name: ClassVar[str] = "word_swap"
    joint: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base", "queries", "drafts")
    budget_fields: ClassVar[tuple[str, ...]] = ("drawn",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("drawn",)

    named: tuple[str, ...]
    words: tuple[str, ...] = ()
    place: Swapped = "concept"
    ranking: Ranking = "base"
    drawn: int = 400
    kept: int = 24
    whole: int = 4
    draft_steps: int = 4
    pool: int = 128
    batch: int = 256

    def __post_init__(self) -> None:
        if not self.named or any(not word.strip() for word in (*self.named, *self.words)):
            raise ValueError(f"expected the concept's words, and no blank words, found {self.named} and {self.words}")
        if min(self.drawn, self.kept, self.whole, self.pool, self.batch) < 1 or self.draft_steps < 0:
            raise ValueError(
                f"expected drawn, kept, whole, pool and batch of at least 1 and draft_steps of at least 0, found {self}"
            )
        if self.place not in get_args(Swapped) or self.ranking not in get_args(Ranking):
            raise ValueError(
                f"expected a place among {get_args(Swapped)} and a ranking among {get_args(Ranking)}, found "
                f"{self.place!r} and {self.ranking!r}"
            )

    @property
    def whole_prompt(self) -> bool:
        """True if the whole prompt is replaced."""
        return self.place == "caption"

    @classmethod
    def for_concept(cls, concept: Concept) -> WordSwap:
        """Return the attack on the concept's name and synonyms, with the words of the tokenizer's vocabulary."""
        return cls(concept.words())

    @property
    def tier(self) -> str:
        """``T2`` if the base's encoder ranks, ``T3`` if the attacked one does."""
        return "T2" if self.ranking == "base" else "T3"

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack, with its base and its draft function, or without drafts its query function.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with the list of cases it fixes the case that is tried.

        Returns:
            One result per case with at most ``whole`` texts, and the UNet calls of its drafts and of its share of the
            first drafts. Without drafts there are at most ``kept`` texts, and a share of the queries.

        Raises:
            ValueError: If the target has no base, draws no drafts or answers no queries, or no text is left without the
                concept's words.
        """
        if not cases:
            return []
        drawn = case_generator(seed, cases[0], self.name, len(cases))
        lost = [case for case in cases if not target.is_settled(case)] or cases
        tried = lost[int(torch.randint(len(lost), (), generator=drawn))]
        with target.frozen(), target.base.frozen(), torch.no_grad():
            found = _Ranking(self, target, tried).nearest()
        if not self.draft_steps:
            return self._queried(target, cases, tried, found)
        texts = [self.text(phrase, tried) for phrase in found]
        first = self._best(target, [texts], [tried], self.kept)[0]
        phrases = [found[i] for i in first.places]
        rows = [[self.text(phrase, case) for phrase in phrases] for case in cases]
        each = self._best(target, rows, cases, self.whole)
        spent = shares(first.unet_calls, len(cases))
        return [
            self._result([row[i] for i in one.places], unet_calls=calls + one.unet_calls)
            for row, one, calls in zip(rows, each, spent, strict=True)
        ]

    def _best(
        self, target: TargetModel, texts: Sequence[Sequence[str]], cases: Sequence[Case], whole: int
    ) -> list[Screened]:
        return best_by_draft(target, texts, cases, steps=self.draft_steps, whole=whole)

    def _queried(
        self, target: TargetModel, cases: Sequence[Case], tried: Case, found: Sequence[str]
    ) -> list[AttackResult]:
        """Return the phrases whose whole pictures score best at one case, for all cases."""
        margins = target.query([self.text(phrase, tried) for phrase in found], [tried] * len(found))
        order = margins.argsort(descending=True, stable=True)[: self.kept].tolist()
        rows = zip(cases, shares(len(found), len(cases)), strict=True)
        return [self._result([self.text(found[i], case) for i in order], queries=n) for case, n in rows]

    def text(self, phrase: str, case: Case) -> str:
        """Return the text for a case; a prompt that does not name the concept gets the phrase and a comma before it."""
        if self.place == "caption":
            return phrase
        found = in_place_of(case.wanted, self.named, phrase)
        return f"{phrase}, {case.wanted}" if found is None else found

    def allowed(self, text: str) -> bool:
        """Return True if a text does not name the concept."""
        return not self._named.search(text)

    @cached_property
    def _named(self) -> re.Pattern[str]:
        return naming(self.named)

    def _result(self, texts: Sequence[str], *, queries: int = 0, unet_calls: int = 0) -> AttackResult:
        found = [Candidate("text", text, self.drawn) for text in texts]
        first = [EMPTY_PROMPT] if self.place == "caption" else []
        return AttackResult((*first, *found), queries=queries, unet_calls=unet_calls)


@dataclass(frozen=True)
class _Ranking:
    """The ranking of all phrases by the conditioning of one case's text."""

    attack: WordSwap
    target: TargetModel
    case: Case

    @cached_property
    def encoder(self) -> Backbone:
        return self.target.base if self.attack.ranking == "base" else self.target

    @cached_property
    def gram(self) -> Tensor:
        """Matrix G (D, D)."""
        return self.target.text_gram()

    @cached_property
    def goal(self) -> Tensor:
        """The base's conditioning (1, L, D) of the prompt that names the concept."""
        return self.target.base.condition([self.case.wanted])

    def nearest(self) -> list[str]:
        """Return the phrases whose texts are nearest to the goal, the nearest first."""
        words = self.attack.words or whole_words(self.target.tokenizer)
        singles = self._ranked(dict.fromkeys(words))
        best = list(singles)[: self.attack.pool]
        pairs = self._ranked(dict.fromkeys(f"{one} {other}" for one in best for other in best if one != other))
        both = {**singles, **pairs}
        if not both:
            raise ValueError(
                f"expected words besides {self.attack.named}, found none: give words that do not name the concept"
            )
        return sorted(both, key=both.__getitem__)[: self.attack.drawn]

    def _ranked(self, phrases: Iterable[str]) -> dict[str, float]:
        """Return phrase to distance, the nearest first.

        Phrases are left out if their text would name the concept, or if the tokenizer would cut it.
        """
        usable = [phrase for phrase in phrases if self._usable(phrase)]
        parts = tqdm(list(chunks(len(usable), self.attack.batch)), desc=self.attack.name, leave=False, disable=None)
        found = [d for part in parts for d in self._distances(usable[part])]
        return dict(sorted(zip(usable, found, strict=True), key=lambda pair: pair[1]))

    def _usable(self, phrase: str) -> bool:
        text = self.attack.text(phrase, self.case)
        return self.attack.allowed(text) and self.target.fits(text)

    def _distances(self, phrases: Sequence[str]) -> list[float]:
        found = self.encoder.condition([self.attack.text(phrase, self.case) for phrase in phrases])
        distances: list[float] = seen_distance(found, self.goal.expand_as(found), self.gram).tolist()
        return distances
