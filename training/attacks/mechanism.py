"""Mechanism: a token search that aims at what the attached defence relies on, with no UNet call.

The attack is ours. It follows Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses" (NeurIPS 2020): the
attacker knows the defence, and attacks its own loss. The search over tokens is GCG's (Zou et al., "Universal and
Transferable Adversarial Attacks on Aligned Language Models", arXiv:2307.15043, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ..diffusion.target import TargetModel
from ..prompts.concept_words import naming
from ..prompts.layout import prompt_lengths
from ..prompts.spelled import spelled
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator, chunks
from .common.mechanisms import EmbeddingLoss, MechanismName, loss_of, mechanism_of
from .common.slots import SlottedPrompts
from .common.whole_prompts import EMPTY_PROMPT
from .unlearn_diff_atk import allowed_tokens

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Place = Literal["prefix", "concept", "replace"]


@dataclass(frozen=True)
class Mechanism:
    """White-box search for tokens whose conditioning gets past the mechanism of the attached defence.

    Other searches follow the UNet's denoising loss, whose gradients a defence may have made useless. This one follows a
    loss of conditionings alone: the distance to the base's conditioning of the prompt that names the concept, as the
    UNet sees it, and a term for the mechanism. The mechanism follows from the form of the target's artifact:

    - ``margin`` for a trained encoder. The conditioning moves away from the one that the defence sends the concept to,
      and so along the direction that the defence removes. A projection has this mechanism, too, if asked for by name.
    - ``gate`` for an adapter. The distance is taken through the adapters on keys and values, at the gate that the text
      opens, and a high gate costs.
    - ``none`` for other defences and for the base: the distance alone.

    Every restart begins with random tokens. A step takes the gradient of the loss for each token's embedding. The
    ``top`` tokens at each position whose embeddings lower the loss most, to first order, are eligible. ``width`` texts
    are tried, each with one token replaced by an eligible one, and the best of them is the next text. Neither the UNet
    nor a judge is asked. The steps of a restart are divided into ``kept`` equal parts. The nearest text of each part is
    a candidate, as the last texts of a restart are much alike. The candidates of all restarts are put in order, nearest
    first.

    Args:
        words: Words for the concept, which the tokens replace with ``place="concept"``. Their tokens are not used,
            and the tokens of a text never spell one of them.
        place: Position of the tokens: ``prefix`` before the prompt, ``concept`` in place of each mention of the
            concept, ``replace`` in place of the whole prompt. In the last case, the empty prompt is the first
            candidate.
        tokens: Number K of adversarial tokens.
        mechanism: Mechanism to attack; ``auto`` takes that of the target's artifact.
        weight: Factor of the mechanism's term.
        steps: Number of steps of a restart.
        width: Number of texts tried in a step.
        top: Number of eligible tokens at each position.
        restarts: Number of starts.
        kept: Largest number of candidates of a restart.
        typable: True to allow only tokens that decoding and tokenising reproduce.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
    """

    name: ClassVar[str] = "mechanism"
    tier: ClassVar[str] = "T3"
    joint: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)
    budget_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts", "width")
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    words: tuple[str, ...] = ()
    place: Place = "prefix"
    tokens: int = 3
    mechanism: MechanismName | Literal["auto"] = "auto"
    weight: float = 0.05
    steps: int = 50
    width: int = 32
    top: int = 32
    restarts: int = 3
    kept: int = 3
    typable: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        if min(self.tokens, self.steps, self.width, self.top, self.restarts, self.kept, self.batch) < 1:
            raise ValueError(
                f"expected tokens, steps, width, top, restarts, kept and batch of at least 1, found {self}"
            )
        names = ("auto", *get_args(MechanismName))
        if self.place not in get_args(Place) or self.mechanism not in names or not self.weight >= 0:
            raise ValueError(
                f"expected a place among {get_args(Place)}, a mechanism among {names} and a weight of at least 0, "
                f"found {self.place!r}, {self.mechanism!r} and {self.weight}"
            )
        if self.place == "concept" and not self.words:
            raise ValueError(
                "expected the concept's words for the place 'concept', found none: name the words to replace"
            )

    @property
    def whole_prompt(self) -> bool:
        """True if the whole prompt is replaced."""
        return self.place == "replace"

    @classmethod
    def for_concept(cls, concept: Concept) -> Mechanism:
        """Return the attack in place of the concept's name and synonyms."""
        return cls(concept.words(), place="concept")

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack, with its base and the artifact that defends it.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with at most ``restarts * kept`` different texts, nearest first, after the empty prompt
            if the whole prompt is replaced, and no UNet calls.

        Raises:
            ValueError: If the target has no base, a prompt leaves no room for the tokens, the mechanism ``gate`` is
                asked for and no adapter is attached, or all texts that were found spell the concept's words.
        """
        chosen = mechanism_of(target.artifact) if self.mechanism == "auto" else self.mechanism
        with target.frozen(), target.base.frozen():
            search = _TokenSearch(self, target, chosen, self._allowed(target))
            parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
            return [result for part in parts for result in search.run(cases[part], seed)]

    def _allowed(self, target: TargetModel) -> Tensor:
        """Return the token ids (V,) that may enter a prompt, without the tokens of the concept's words."""
        ids = allowed_tokens(target, typable=self.typable)
        own = target.tokenizer([*self.words], add_special_tokens=False).input_ids if self.words else []
        single = torch.tensor([row[0] for row in own if len(row) == 1], dtype=ids.dtype, device=ids.device)
        return ids[~torch.isin(ids, single)]

    def spells(self, text: str) -> bool:
        """Return True if a text of tokens spells one of the concept's words."""
        return bool(self.words) and naming(self.words).search(text) is not None


@dataclass(frozen=True)
class _TokenSearch:
    """The search of one attack on one model; ``run`` takes a batch of cases."""

    attack: Mechanism
    target: TargetModel
    mechanism: MechanismName
    allowed: Tensor  # (V,)

    @cached_property
    def table(self) -> Tensor:
        """Embeddings (V, D) of the allowed tokens."""
        return self.target.embed(self.allowed).detach()

    def run(self, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        slots = self._slots(cases)
        loss = loss_of(self.target, cases, self.mechanism, self.attack.weight)
        tried: list[tuple[Tensor, Tensor]] = []
        for restart in range(self.attack.restarts):
            generators = [case_generator(seed, case, self.attack.name, restart) for case in cases]
            tried += self._descend(slots, loss, generators)
        picks, losses = (torch.stack(part, dim=1) for part in zip(*tried, strict=True))  # (B, N, K), (B, N)
        rows = zip(picks, losses.argsort(dim=1, stable=True), strict=True)
        return [self._result(self._texts(slots, i, pick[order])) for i, (pick, order) in enumerate(rows)]

    def _slots(self, cases: Sequence[Case]) -> SlottedPrompts:
        tokens = self.attack.tokens
        if self.attack.place == "replace":
            return SlottedPrompts.whole(self.target, len(cases), tokens)
        if self.attack.place == "concept":
            return SlottedPrompts.cut(self.target, [case.wanted for case in cases], self.attack.words, tokens)
        return SlottedPrompts.before(self.target, [case.prompt for case in cases], tokens)

    def _descend(
        self, slots: SlottedPrompts, loss: EmbeddingLoss, generators: Sequence[Generator]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the nearest tokens (B, K) of each part of the steps, as rows of the table, and their losses (B,)."""
        picked = self._drawn(generators, len(self.allowed), self.attack.tokens)
        cases = torch.arange(len(generators), device=picked.device)
        steps = []
        for _ in range(self.attack.steps):
            changed = self._changed(picked, self._gradient(slots, loss, picked), generators)  # (B, W, K)
            with torch.no_grad():
                index = cases.repeat_interleave(self.attack.width)
                ids = slots.filled(self.allowed[changed.flatten(0, 1)], index)
                losses = loss(self.target.embed(ids), ids, index).view(len(cases), -1)
            lowest, best = losses.min(dim=1)
            picked = changed[cases, best]
            steps.append((picked, lowest))
        picks, losses = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))  # (B, S, K), (B, S)
        parts = torch.arange(len(steps), device=picks.device).tensor_split(min(self.attack.kept, len(steps)))
        nearest = [part[losses[:, part].argmin(dim=1)] for part in parts]
        return [(picks[cases, one], losses[cases, one]) for one in nearest]

    def _gradient(self, slots: SlottedPrompts, loss: EmbeddingLoss, picked: Tensor) -> Tensor:
        """Return the gradient (B, K, V) for the one-hot vectors of the tokens (B, K)."""
        cases = torch.arange(len(picked), device=picked.device)
        free = self.table[picked].requires_grad_()
        losses = loss(slots.embeds(free), slots.filled(self.allowed[picked], cases), cases)
        (gradient,) = torch.autograd.grad(losses.sum(), free)
        return gradient @ self.table.T

    def _changed(self, picked: Tensor, gradient: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Return tokens (B, W, K), each row with one token of ``picked`` (B, K) replaced by an eligible one."""
        width, eligible = self.attack.width, min(self.attack.top, len(self.allowed))
        best = gradient.topk(eligible, dim=-1, largest=False).indices  # (B, K, top)
        at, rank = (self._drawn(generators, below, width)[..., None] for below in (self.attack.tokens, eligible))
        chosen = best.gather(1, at.expand(-1, -1, eligible)).gather(2, rank)  # (B, W, 1)
        return picked[:, None].repeat(1, width, 1).scatter(2, at, chosen)

    def _drawn(self, generators: Sequence[Generator], below: int, n: int) -> Tensor:
        """Return integers (B, n) from 0 to ``below`` - 1, a row from each case's generator."""
        return torch.stack([torch.randint(below, (n,), generator=g) for g in generators]).to(self.allowed.device)

    def _texts(self, slots: SlottedPrompts, case: int, picks: Tensor) -> list[str]:
        """Return the different texts of a case for rows of tokens (N, K), in their order."""
        named = [self.attack.spells(spelled(self.target.tokenizer, row)) for row in self.allowed[picks].tolist()]
        picks = picks[~torch.tensor(named, device=picks.device)]
        if not len(picks):
            raise ValueError(
                f"expected texts without the words {self.attack.words}, found none: raise restarts, kept or tokens"
            )
        ids = slots.filled(self.allowed[picks], torch.full((len(picks),), case, device=picks.device))
        ends = 1 + prompt_lengths(ids, self.target.tokenizer.eos_token_id)
        rows = zip(ids.tolist(), ends.tolist(), strict=True)
        return list(dict.fromkeys(spelled(self.target.tokenizer, row[1:end]) for row, end in rows))

    def _result(self, texts: Sequence[str]) -> AttackResult:
        spent = self.attack.steps * self.attack.restarts  # all restarts are over before their texts are put in order
        found = [Candidate("text", text, spent) for text in texts]
        return AttackResult((*([EMPTY_PROMPT] if self.whole_prompt else []), *found), queries=0, unet_calls=0)

    @property
    def whole_prompt(self) -> bool:
        """True if the whole prompt is replaced."""
        return self.attack.whole_prompt
