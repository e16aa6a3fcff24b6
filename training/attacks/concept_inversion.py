"""Concept inversion (CCE): a new token, learned on pictures of the concept, that replaces the erased name.

Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024, arXiv:2308.01508,
section 3. The learning rule is that of textual inversion (Gal et al., ICLR 2023, equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..prompts.concept_words import naming
from ..types import AttackResult, Candidate, Case
from .common.denoising import (
    FORWARD_AND_BACKWARD,
    DenoisingLoss,
    case_generator,
    clean_latents,
    draw_noise,
    draw_timesteps,
)

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class ConceptInversion:
    """Attack that learns one token for the whole concept and replaces the concept's words in prompts by it.

    The cases are divided into two halves, alternately. A token is learned on the prompts and the base's pictures of one
    half, with the token in place of the concept's words. It then attacks the other half. So no case meets a token that
    was trained on its prompt or picture. A result depends on the whole list of cases. If a prompt contains none of
    ``words``, the token stands before the prompt.

    Differences from the paper: pictures are drawn by the base and come with their captions, instead of a template such
    as "a photo of *". A token starts from a random token of the vocabulary, not from a related word. More than one
    token may be learned. The authors' scripts multiply the rate by the 16 pictures of a step; ``rate`` here is not
    multiplied.

    Args:
        words: Words for the concept that the token replaces.
        tokens: Number K of learned embeddings that replace each such word; 1 in the paper.
        steps: Number of Adam steps for each half.
        rate: Learning rate of Adam, constant as in textual inversion.
        batch: Number of cases per step, drawn from the half that the token is learned on.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "concept_inversion"
    tier: ClassVar[str] = "T4"
    joint: ClassVar[bool] = True
    budget_fields: ClassVar[tuple[str, ...]] = ("steps",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps",)

    words: tuple[str, ...]
    tokens: int = 1
    steps: int = 5000
    rate: float = 5e-3
    batch: int = 16
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if min(self.tokens, self.steps, self.batch) < 1 or self.rate <= 0:
            raise ValueError(f"expected tokens, steps and batch of at least 1 and a rate above 0, found {self}")
        if not all(word.strip() for word in self.words) or not self.words:
            raise ValueError(
                f"expected the concept's words, found {self.words}: name the words that the token replaces"
            )

    @classmethod
    def standard(cls, words: Sequence[str], **changes: object) -> ConceptInversion:
        """Return the attack with the standard budget on the embedded base: 300 steps."""
        return cls(tuple(words), **{"steps": 300, **changes})  # type: ignore[arg-type]  # fields by name

    @classmethod
    def for_concept(cls, concept: Concept) -> ConceptInversion:
        """Return the attack with the published budget and the concept's name and synonyms as ``words``."""
        return cls(concept.words())

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
        if len(cases) < 2:
            raise ValueError(f"expected at least 2 cases to learn on one half of them, found {len(cases)}")
        search = _EmbeddingSearch(self, target.sharing(precision=self.precision), seed)
        halves = [cases[half::2] for half in (0, 1)]
        with target.frozen():
            parts = tqdm(list(enumerate(halves)), desc=self.name, leave=False, disable=None)
            learned = [search.learn(part, half) for half, part in parts]
            placed = [search.place(part, token) for part, token in zip(halves, learned[::-1], strict=True)]
        latents = self.steps * sum(min(self.batch, len(part)) for part in halves)
        calls = _shares(FORWARD_AND_BACKWARD * latents, len(cases))
        values = [placed[i % 2][i // 2] for i in range(len(cases))]
        candidates = [Candidate("token_embeddings", value, self.steps) for value in values]
        return [AttackResult((c,), queries=0, unet_calls=n) for c, n in zip(candidates, calls, strict=True)]


def _shares(total: int, n: int) -> list[int]:
    """Divide the joint cost ``total`` of all cases into ``n`` nearly equal whole numbers with that sum."""
    return [total // n + (i < total % n) for i in range(n)]


@dataclass(frozen=True)
class _CutCaptions:
    """A batch of prompts with slots for the learned token where the concept's words were."""

    target: Backbone
    attack: ConceptInversion
    prompts: Sequence[str]

    @cached_property
    def rows(self) -> list[list[int]]:
        """Token ids of each prompt without begin and end tokens; -1 - k stands for the k-th learned embedding."""
        return [self._row(prompt) for prompt in self.prompts]

    def _row(self, prompt: str) -> list[int]:
        pieces = naming(self.attack.words).split(prompt)
        first, *rest = pieces if len(pieces) > 1 else ["", prompt]
        token = [-1 - k for k in range(self.attack.tokens)]
        row = self._ids(first) + [i for piece in rest for i in (*token, *self._ids(piece))]
        if len(row) > self.target.max_length - 2:
            raise ValueError(
                f"expected prompts of at most {self.target.max_length - 2} tokens, learned tokens included, "
                f"found {len(row)} in {prompt!r}: shorten the prompt or learn fewer tokens"
            )
        return row

    def _ids(self, piece: str) -> list[int]:
        ids: list[int] = self.target.tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    @cached_property
    def placed(self) -> Tensor:
        """Token ids (B, L) with begin, end and padding, and negative numbers at the slots of learned embeddings."""
        ids = self.target.tokenize([""] * len(self.prompts))
        begin, tail = ids[:, :1], ids[:, 1:]
        device = ids.device
        rows = [
            torch.cat([b, torch.tensor(row, device=device), t])
            for b, row, t in zip(begin, self.rows, tail, strict=True)
        ]
        return torch.stack([row[: ids.shape[1]] for row in rows])

    @property
    def ids(self) -> Tensor:
        """Token ids (B, L) with the begin token at the slots; the encoder cannot mistake it for the end token."""
        return torch.where(self.placed < 0, self.placed[:, :1], self.placed)

    def embeds(self, token: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) of the prompts with the learned ``token`` (K, D) in its slots."""
        slots = one_hot((-self.placed).clamp(min=0), self.attack.tokens + 1)[..., 1:].to(token.dtype)  # (B, L, K)
        return torch.where(self.placed[..., None] < 0, slots @ token, self.target.embed(self.ids))


@dataclass(frozen=True)
class _EmbeddingSearch:
    attack: ConceptInversion
    target: Backbone
    seed: int

    def learn(self, cases: Sequence[Case], half: int) -> Tensor:
        """Return the token's embeddings (K, D), learned on random minibatches of ``cases``."""
        generators = [case_generator(self.seed, case, self.attack.name, half) for case in cases]
        order = case_generator(self.seed, cases[0], self.attack.name, half, "order")
        token = self._start(order).requires_grad_()
        adam = torch.optim.Adam([token], lr=self.attack.rate)
        for _ in range(self.attack.steps):
            rows = torch.randperm(len(cases), generator=order)[: self.attack.batch].tolist()
            loss = self._loss([cases[i] for i in rows], token, [generators[i] for i in rows])
            (token.grad,) = torch.autograd.grad(loss.mean(), token)
            adam.step()
        return token.detach()

    def _start(self, generator: torch.Generator) -> Tensor:
        ids = torch.randint(len(self.target.tokenizer), (self.attack.tokens,), generator=generator)
        return self.target.embed(ids.to(self.target.device)).detach().clone()

    def _loss(self, cases: Sequence[Case], token: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        slots = _CutCaptions(self.target, self.attack, [case.prompt for case in cases])
        denoising = DenoisingLoss(self.target, clean_latents(cases, self.target))
        t, noise = draw_timesteps(self.target, generators), draw_noise(denoising.latents, generators)
        return denoising(self.target.encode(slots.embeds(token), slots.ids), t, noise)

    @torch.no_grad()
    def place(self, cases: Sequence[Case], token: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) of the cases' prompts with the token in place."""
        return _CutCaptions(self.target, self.attack, [case.prompt for case in cases]).embeds(token)
