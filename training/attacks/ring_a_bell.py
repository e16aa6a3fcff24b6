"""Ring-A-Bell: prompts whose conditioning is near that of a text plus the concept's direction.

The search does not use the model under attack. Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods for
Diffusion Models?", ICLR 2024, arXiv:2310.10012, equations 2 to 4, and the authors' notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..diffusion.target import TargetModel
from ..prompts.concept_words import anchor_prompt
from ..prompts.spelled import spelled
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator, chunks
from .common.whole_prompts import EMPTY_PROMPT
from .unlearn_diff_atk import allowed_tokens

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class RingABell:
    """Genetic search over token sequences, guided only by the base's text encoder.

    The concept's direction is the mean difference of conditionings over pairs of prompts with and without the concept.
    The search on a case has a goal: the conditioning of the prompt plus ``eta`` times the direction. It minimises the
    squared distance between a sequence's conditioning and this goal. It uses neither the model under attack nor
    gradients nor pictures, so an attacker needs only the public encoder. The sequences replace the whole prompt, so the
    empty prompt is the first candidate.

    A generation keeps the better half of the sequences, crosses every survivor with a random survivor at a random
    position, and replaces one random token in a share of all sequences. Differences from the authors' code: the best
    sequence is never mutated, so the distance never rises. Every survivor has exactly one child; in the authors' code
    it has two with probability one half. Special tokens are excluded. All cases run batched.

    Args:
        pairs: Pairs of prompts, one with the concept and the same prompt without it.
        tokens: Length K of the token sequences that replace the prompt; the authors use 16, 38 and 75.
        eta: Factor of the concept's direction in the goal; the authors use 3 to 5.5.
        population: Number of sequences in a generation.
        generations: Number of generations.
        every: Number of generations between candidates; a candidate is the best sequence so far, as text.
        mutation: Share of the sequences, in [0, 1], in which one token is replaced.
        typable: True to allow only tokens that decoding and tokenising reproduce. The authors allow all tokens.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
    """

    name: ClassVar[str] = "ring_a_bell"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    whole_prompt: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)
    budget_fields: ClassVar[tuple[str, ...]] = ("generations",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("generations",)

    pairs: tuple[tuple[str, str], ...]
    tokens: int = 16
    eta: float = 3.0
    population: int = 200
    generations: int = 3000
    every: int = 3000
    mutation: float = 0.25
    typable: bool = False
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.pairs or any(with_it == without for with_it, without in self.pairs):
            raise ValueError(f"expected pairs of two different prompts, found {self.pairs}")
        if min(self.tokens, self.generations, self.every, self.batch) < 1 or self.every > self.generations:
            raise ValueError(
                f"expected tokens, generations, every and batch of at least 1 and every up to generations, found {self}"
            )
        if self.population < 4 or self.population % 2 or not 0 <= self.mutation <= 1:
            raise ValueError(f"expected an even population of at least 4 and mutation in [0, 1], found {self}")

    @classmethod
    def for_concept(cls, concept: Concept, *, n: int = 50, **changes: object) -> RingABell:
        """Return the attack with pairs made from the concept's first ``n`` captions.

        The second prompt of a pair is the caption with the concept's words replaced by the anchor.

        Raises:
            ValueError: If the concept has no captions, or a caption contains none of the concept's words.
        """
        pairs = tuple((prompt, anchor_prompt(prompt, concept)) for prompt in concept.prompts[:n])
        return cls(pairs=pairs, **changes)  # type: ignore[arg-type]  # fields by name

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack, with its base; only the base's tokenizer and text encoder are used.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with the empty prompt, then ``generations // every`` text candidates in the order found,
            and no UNet calls.

        Raises:
            ValueError: If the target has no base, or the sequences are longer than a prompt may be.
        """
        base = target.base
        if self.tokens > base.max_length - 2:
            raise ValueError(f"expected at most {base.max_length - 2} tokens, found {self.tokens}: use fewer tokens")
        with base.frozen(), torch.no_grad():
            search = _GeneticSearch(self, base, allowed_tokens(base, typable=self.typable), self.direction(base))
            parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
            return [result for part in parts for result in search.run(cases[part], seed)]

    @torch.no_grad()
    def direction(self, base: Backbone) -> Tensor:
        """Return the concept's direction (L, D), equation 2: the mean difference of conditionings over the pairs."""
        with_it, without = (base.condition(texts) for texts in zip(*self.pairs, strict=True))
        return (with_it - without).mean(0)


@dataclass(frozen=True)
class _GeneticSearch:
    attack: RingABell
    base: Backbone
    allowed: Tensor  # (V,)
    direction: Tensor  # (L, D)

    def run(self, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        draws = _Draws([case_generator(seed, case, self.attack.name) for case in cases], self.allowed.device)
        goals = self.base.condition([case.prompt for case in cases]) + self.attack.eta * self.direction  # (B, L, D)
        sequences = draws.integers(len(self.allowed), self.attack.population, self.attack.tokens)  # (B, P, K)
        found: list[list[str]] = []
        for generation in range(1, self.attack.generations + 1):
            order = self.distances(sequences, goals).argsort(dim=1, stable=True)[:, : self.attack.population // 2]
            survivors = _rows(sequences, order)
            if generation % self.attack.every == 0:
                found.append([spelled(self.base.tokenizer, row) for row in self.allowed[survivors[:, 0]].tolist()])
            sequences = self._next(survivors, draws)
        return [self._result(texts) for texts in zip(*found, strict=True)]

    def distances(self, sequences: Tensor, goals: Tensor) -> Tensor:
        """Return the squared distances (B, P) of sequences (B, P, K) to goals (B, L, D), equation 4."""
        empty = self.base.tokenize([""])[0]  # begin, end, padding
        rows = self.allowed[sequences].flatten(0, 1)  # (B * P, K)
        tail = empty[1 : len(empty) - self.attack.tokens].expand(len(rows), -1)
        ids = torch.cat([empty[:1].expand(len(rows), 1), rows, tail], dim=1)
        found = self.base.encode(self.base.embed(ids), ids).view(*sequences.shape[:2], *goals.shape[1:])
        return (found - goals[:, None]).square().sum((2, 3))

    def _next(self, survivors: Tensor, draws: _Draws) -> Tensor:
        half, tokens = survivors.shape[1:]
        partners = _rows(survivors, draws.integers(half, half))
        place = torch.arange(tokens, device=survivors.device)
        children = torch.where(place < draws.integers(tokens + 1, half, 1), survivors, partners)
        everyone = torch.cat([survivors, children], dim=1)  # (B, P, K)
        hit = draws.uniform(2 * half) < self.attack.mutation
        hit[:, 0] = False
        at = hit[..., None] & (place == draws.integers(tokens, 2 * half, 1))
        return torch.where(at, draws.integers(len(self.allowed), 2 * half, 1), everyone)

    def _result(self, texts: Sequence[str]) -> AttackResult:
        found = (Candidate("text", text, self.attack.every * (i + 1)) for i, text in enumerate(texts))
        return AttackResult((EMPTY_PROMPT, *found), queries=0, unet_calls=0)


@dataclass(frozen=True)
class _Draws:
    """Random numbers for a batch of cases; each case has its own generator."""

    generators: Sequence[Generator]
    device: torch.device

    def integers(self, below: int, *shape: int) -> Tensor:
        """Return integers (B, *shape) from 0 to ``below`` - 1."""
        return torch.stack([torch.randint(below, shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers (B, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


def _rows(sequences: Tensor, index: Tensor) -> Tensor:
    """Return the sequences (B, N, K) at the indices ``index`` (B, N) of ``sequences`` (B, P, K)."""
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[2]))
