"""Concept inversion (CCE): a new token, learned on pictures of the concept, that replaces the erased name.

Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024, arXiv:2308.01508,
section 3. The learning rule is that of textual inversion (Gal et al., ICLR 2023, equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..types import AttackResult, Candidate, Case
from .common.denoising import (
    FORWARD_AND_BACKWARD,
    DenoisingLoss,
    case_generator,
    clean_latents,
    draw_noise,
    draw_timesteps,
)
from .common.groups import crossed, group_of_each, others_than_own, shares
from .common.norm_bound import radius_of, relative_norms, require_bound, tier_of_bound, within
from .common.slots import SlottedPrompts

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class ConceptInversion:
    """Attack that learns one token for the whole concept and replaces the concept's words in prompts by it.

    The cases are divided into groups. The token of a group is learned on the prompts and the base's pictures of all
    other groups, with the token in place of the concept's words. So no case meets a token that was trained on its
    prompt or picture. A result depends on the whole list of cases. The cases of a group succeed or fail together in
    part, so the interval of the rate is one over groups. If a prompt contains none of ``words``, the token stands
    before the prompt.

    Differences from the paper: pictures are drawn by the base and come with their captions, instead of a template such
    as "a photo of *". A token starts from a random token of the vocabulary, not from a related word. More than one
    token may be learned. Each step ends with a projection onto the ball of ``bound``. The authors' scripts multiply the
    rate by the 16 pictures of a step; ``rate`` here is not multiplied.

    Args:
        words: Words for the concept that the token replaces.
        tokens: Number K of learned embeddings that replace each such word; 1 in the paper.
        steps: Number of Adam steps for each group.
        rate: Learning rate of Adam, constant as in textual inversion.
        groups: Number of groups, each with a token of its own; at most one for each case, and at least 2.
        batch: Number of cases per step, drawn from the cases that the token is learned on.
        bound: Largest norm of an embedding, in multiples of the vocabulary's largest norm; None for no bound as in the
            paper, which is of tier T7.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "concept_inversion"
    joint: ClassVar[bool] = True
    budget_fields: ClassVar[tuple[str, ...]] = ("steps",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps",)

    words: tuple[str, ...]
    tokens: int = 1
    steps: int = 5000
    rate: float = 5e-3
    groups: int = 2
    batch: int = 16
    bound: float | None = 3.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_bound(self.bound)
        if min(self.tokens, self.steps, self.batch, self.groups - 1) < 1 or self.rate <= 0:
            raise ValueError(
                f"expected tokens, steps and batch of at least 1, groups of at least 2 and a rate above 0, found {self}"
            )
        if not all(word.strip() for word in self.words) or not self.words:
            raise ValueError(
                f"expected the concept's words, found {self.words}: name the words that the token replaces"
            )

    @classmethod
    def standard(cls, words: Sequence[str], **changes: object) -> ConceptInversion:
        """Return the attack with the standard budget on the embedded base: 8 tokens, each learned in 100 steps."""
        return cls(tuple(words), **{"steps": 100, "groups": 8, **changes})  # type: ignore[arg-type]  # fields by name

    @classmethod
    def for_concept(cls, concept: Concept) -> ConceptInversion:
        """Return the attack with the published budget and the concept's name and synonyms as ``words``."""
        return cls(concept.words())

    @property
    def tier(self) -> str:
        """``T4`` with a bound of at most 10, else ``T7``."""
        return tier_of_bound(self.bound)

    def clusters(self, n: int) -> tuple[int, ...]:
        """Return the number of the token that each of n cases meets."""
        return group_of_each(n, self.groups)

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack.
            cases: At least two cases with their reference latents.
            seed: Seed of the run; together with the list of cases it fixes every random draw.

        Returns:
            One result per case with one candidate of token embeddings (L, D).

        Raises:
            ValueError: If there are fewer than 2 cases, a case has no reference latent, or a prompt leaves no room for
                the token.
        """
        search = _EmbeddingSearch(self, target.sharing(precision=self.precision), seed, radius_of(self.bound, target))
        found: dict[int, tuple[Tensor, float]] = {}
        with target.frozen():
            for places, token in crossed(cases, self.groups, search.learn, "a token"):
                placed = search.place([cases[i] for i in places], token)
                norm = relative_norms(token[None], target)[0]
                found.update((i, (value, norm)) for i, value in zip(places, placed, strict=True))
        latents = self.steps * sum(min(self.batch, n) for n in others_than_own(len(cases), self.groups))
        calls = shares(FORWARD_AND_BACKWARD * latents, len(cases))
        return [self._result(*found[i], spent) for i, spent in enumerate(calls)]

    def _result(self, value: Tensor, norm: float, calls: int) -> AttackResult:
        candidate = Candidate("token_embeddings", value, self.steps, norm=norm)
        return AttackResult((candidate,), queries=0, unet_calls=calls)


@dataclass(frozen=True)
class _EmbeddingSearch:
    attack: ConceptInversion
    target: Backbone
    seed: int
    radius: float | None

    def learn(self, cases: Sequence[Case], group: int) -> Tensor:
        """Return the token's embeddings (K, D), learned on random minibatches of ``cases``."""
        generators = [case_generator(self.seed, case, self.attack.name, group) for case in cases]
        order = case_generator(self.seed, cases[0], self.attack.name, group, "order")
        token = self._start(order).requires_grad_()
        adam = torch.optim.Adam([token], lr=self.attack.rate)
        steps = tqdm(range(self.attack.steps), desc=f"{self.attack.name} {group}", leave=False, disable=None)
        for _ in steps:
            rows = torch.randperm(len(cases), generator=order)[: self.attack.batch].tolist()
            loss = self._loss([cases[i] for i in rows], token, [generators[i] for i in rows])
            (token.grad,) = torch.autograd.grad(loss.mean(), token)
            adam.step()
            with torch.no_grad():
                token.copy_(within(token, self.radius))
        return token.detach()

    def _start(self, generator: torch.Generator) -> Tensor:
        ids = torch.randint(len(self.target.tokenizer), (self.attack.tokens,), generator=generator)
        return within(self.target.embed(ids.to(self.target.device)).detach(), self.radius).clone()

    def _loss(self, cases: Sequence[Case], token: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        slots = self._slots(cases)
        denoising = DenoisingLoss(self.target, clean_latents(cases, self.target))
        t, noise = draw_timesteps(self.target, generators), draw_noise(denoising.latents, generators)
        return denoising(self.target.encode(slots.embeds(token), slots.ids), t, noise)

    @torch.no_grad()
    def place(self, cases: Sequence[Case], token: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) of the cases' prompts with the token in place."""
        return self._slots(cases).embeds(token)

    def _slots(self, cases: Sequence[Case]) -> SlottedPrompts:
        prompts = [case.prompt for case in cases]
        return SlottedPrompts.cut(self.target, prompts, self.attack.words, self.attack.tokens)
