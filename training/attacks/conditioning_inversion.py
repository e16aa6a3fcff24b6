"""Inversion of conditionings: free embeddings for which the attacked encoder answers as the base's encoder would.

The attack is ours. It asks what an encoder's input space still holds: prompt inversion as in PEZ (Wen et al., NeurIPS
2023), but of a conditioning instead of a picture, with free embeddings instead of tokens, and without the UNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..diffusion.target import TargetModel
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator, chunks
from .common.norm_bound import largest_norm, relative_norms, require_bound, tier_of_bound, within
from .common.seen_distance import DISTANCES, Space, seen_distance
from .common.slots import SlottedPrompts

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Inverted = Literal["prompt", "words", "all"]


@dataclass(frozen=True)
class ConditioningInversion:
    """Attack that fits free embeddings until the attacked encoder gives the base's conditioning of the named prompt.

    The base is public, so an attacker knows the conditioning that draws the concept. Adam lowers the distance between
    it and the conditioning that the attacked encoder gives for the free embeddings. The rate falls linearly to zero.
    Neither the UNet nor a judge is asked. Of the UNet, only the Gram matrix of its K and V matrices is used. Each
    restart starts from the embeddings of random tokens and gives one candidate. The candidate that is nearest to the
    goal, as the UNet sees it, comes first.

    After every step each embedding is projected onto a ball. In the first half of the steps, its radius is at most the
    vocabulary's largest norm, where the search converges best. In the second half it grows to ``bound``.

    Without a bound nearly every encoder can be inverted, so the tier is T7 then. It is T4 up to 10 times the
    vocabulary's largest norm.

    Args:
        words: Words for the concept, which free embeddings replace with ``place="words"``.
        place: Positions of the free embeddings: ``prompt`` for K in place of the whole prompt, ``words`` for K in place
            of each mention of the concept, ``all`` for every position between begin and last.
        tokens: Number K of free embeddings; ``all`` ignores it.
        spaces: Distances that are lowered, each in ``restarts`` runs: ``unet`` by the Gram matrix, ``cosine``.
        bound: Largest norm of an embedding, in multiples of the vocabulary's largest norm; None for no bound.
        steps: Number of Adam steps of a restart.
        restarts: Number of starts for each distance.
        rate: Learning rate of Adam at the start.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
    """

    name: ClassVar[str] = "conditioning_inversion"
    joint: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)
    budget_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    words: tuple[str, ...] = ()
    place: Inverted = "prompt"
    tokens: int = 8
    spaces: tuple[Space, ...] = ("unet", "cosine")
    bound: float | None = 1.0
    steps: int = 300
    restarts: int = 2
    rate: float = 0.02
    batch: int = 64

    def __post_init__(self) -> None:
        require_bound(self.bound)
        if min(self.tokens, self.steps, self.restarts, self.batch) < 1 or self.rate <= 0:
            raise ValueError(
                f"expected tokens, steps, restarts and batch of at least 1 and a rate above 0, found {self}"
            )
        if self.place not in get_args(Inverted) or not self.spaces or set(self.spaces) - set(DISTANCES):
            raise ValueError(
                f"expected a place among {get_args(Inverted)} and spaces among {tuple(DISTANCES)}, found "
                f"{self.place!r} and {self.spaces}"
            )
        if self.place == "words" and not self.words:
            raise ValueError(
                "expected the concept's words for the place 'words', found none: name the words to replace"
            )

    @classmethod
    def for_concept(cls, concept: Concept) -> ConditioningInversion:
        """Return the attack with the concept's name and synonyms as ``words``."""
        return cls(concept.words())

    @property
    def tier(self) -> str:
        """``T4`` with a bound of at most 10, else ``T7``."""
        return tier_of_bound(self.bound)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack, with its base.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with ``restarts`` candidates of token embeddings (L, D) for each distance, the nearest
            first, and no UNet calls.

        Raises:
            ValueError: If the target has no base, or a prompt leaves no room for the embeddings.
        """
        gram = target.text_gram()
        with target.frozen(), target.base.frozen():
            search = _Inversion(self, target, target.base, gram, largest_norm(target))
            parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
            return [result for part in parts for result in search.run(cases[part], seed)]


@dataclass(frozen=True)
class _Inversion:
    attack: ConditioningInversion
    target: Backbone
    base: Backbone
    gram: Tensor  # (D, D)
    unit: float  # largest norm of the vocabulary

    def run(self, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        slots = self._slots(cases)
        with torch.no_grad():
            goal = self.base.condition([case.wanted for case in cases])  # (B, L, D)
        tried = [
            self._minimise(space, slots, goal, self._start(slots.tokens, cases, seed, f"{space}:{restart}"))
            for space in self.attack.spaces
            for restart in range(self.attack.restarts)
        ]
        with torch.no_grad():
            found = torch.stack([slots.embeds(free) for free in tried], dim=1)  # (B, R, L, D)
            seen = [seen_distance(self._answer(slots, free), goal, self.gram) for free in tried]
        order = torch.stack(seen, dim=1).argsort(dim=1, stable=True)  # (B, R)
        norms = torch.tensor([relative_norms(free, self.target) for free in tried]).T
        return [self._result(*row) for row in zip(found, norms.tolist(), order.tolist(), strict=True)]

    def _slots(self, cases: Sequence[Case]) -> SlottedPrompts:
        if self.attack.place == "words":
            prompts = [case.wanted for case in cases]
            return SlottedPrompts.cut(self.target, prompts, self.attack.words, self.attack.tokens)
        tokens = self.target.max_length - 2 if self.attack.place == "all" else self.attack.tokens
        return SlottedPrompts.whole(self.target, len(cases), tokens)

    def _start(self, tokens: int, cases: Sequence[Case], seed: int, label: str) -> Tensor:
        """Return embeddings (B, K, D) of random tokens, inside the ball."""
        generators = [case_generator(seed, case, self.attack.name, label) for case in cases]
        vocabulary = len(self.target.tokenizer)
        ids = torch.stack([torch.randint(vocabulary, (tokens,), generator=g) for g in generators])
        return within(self.target.embed(ids.to(self.target.text_encoder.device)).detach(), self._radius(0))

    def _radius(self, step: int) -> float | None:
        """Return the radius of the ball at a step; None for no ball."""
        last, late = self.attack.bound, 2 * step / self.attack.steps - 1
        if last is None:
            return self.unit if late < 0 else None
        return self.unit * (min(1.0, last) + max(0.0, late) * max(0.0, last - 1))

    def _minimise(self, space: Space, slots: SlottedPrompts, goal: Tensor, start: Tensor) -> Tensor:
        free = start.clone().requires_grad_()
        adam = torch.optim.Adam([free], lr=self.attack.rate)
        for step in range(self.attack.steps):
            adam.param_groups[0]["lr"] = self.attack.rate * (1 - step / self.attack.steps)
            losses = DISTANCES[space](self._answer(slots, free), goal, self.gram)
            (free.grad,) = torch.autograd.grad(losses.sum(), free)
            adam.step()
            with torch.no_grad():
                free.copy_(within(free, self._radius(step + 1)))
        return free.detach()

    def _answer(self, slots: SlottedPrompts, free: Tensor) -> Tensor:
        """Return the attacked encoder's conditioning (B, L, D) of free embeddings (B, K, D)."""
        return self.target.encode(slots.embeds(free), slots.ids)

    def _result(self, found: Tensor, norms: Sequence[float], order: Sequence[int]) -> AttackResult:
        spent = self.attack.steps * len(order)  # all runs are over before their results are put in order
        candidates = tuple(Candidate("token_embeddings", found[i], spent, norm=norms[i]) for i in order)
        return AttackResult(candidates, queries=0, unet_calls=0)
