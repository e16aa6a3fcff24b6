"""Concept inversion (CCE): a new token, learned on pictures of the concept, says what its name no longer does.

Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024, arXiv:2308.01508,
section 3; the learning rule is textual inversion's (Gal et al., ICLR 2023, equation 2).
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
    """Learns one token for the whole concept, and puts it into prompts in place of the concept's words.

    The cases are dealt into two halves, by turns. The token learned on one half, from its prompts with the token in
    them and the base's own pictures, attacks the other half, so no case meets a token that saw its prompt or picture,
    and a result depends on the whole list of cases. A prompt that names the concept by none of ``words`` gets the token
    in front.

    Differences from the paper: pictures come with their captions instead of a template such as "a photo of *", and
    are the base's own; a token starts from a random one of the vocabulary, not from a related word; more than one
    token may be learned. The authors' scripts multiply the rate by the 16 pictures of a step; here it is as it says.

    Args:
        words: The words for the concept, of which the token takes the place.
        tokens: Embeddings (K) that stand for each such word; the paper has one.
        steps: Adam steps for each half.
        rate: Adam's rate, constant, as in textual inversion.
        batch: Cases per step, drawn from the half that is learned on.
        precision: Of the UNet: ``fp32``, or ``bf16`` by autocast.
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
                f"expected the concept's words, found {self.words}: name what the token takes the place of"
            )

    @classmethod
    def standard(cls, words: Sequence[str], **changes: object) -> ConceptInversion:
        """Return the standard budget on the embedded base: 300 steps."""
        return cls(tuple(words), **{"steps": 300, **changes})  # type: ignore[arg-type]  # fields by name

    @classmethod
    def for_concept(cls, concept: Concept) -> ConceptInversion:
        """Return the attack at the published budget, with the concept's name and synonyms."""
        return cls(concept.words())

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: The model under attack.
            cases: Prompts with their reference latents, at least two.
            seed: Of the run; with the list of cases it fixes all that is random.

        Returns:
            One result per case with one candidate of token embeddings (L, D).

        Raises:
            ValueError: If there are fewer than 2 cases, one has no reference latent, or its prompt leaves no room.
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
    """Divide what all cases pay for together into ``n`` whole numbers with that sum."""
    return [total // n + (i < total % n) for i in range(n)]


@dataclass(frozen=True)
class _CutCaptions:
    """A batch of prompts with room for the token where the concept's words were."""

    target: Backbone
    attack: ConceptInversion
    prompts: Sequence[str]

    @cached_property
    def rows(self) -> list[list[int]]:
        """Per prompt its token ids without begin and end; -1 - k stands for the k-th learned embedding."""
        return [self._row(prompt) for prompt in self.prompts]

    def _row(self, prompt: str) -> list[int]:
        pieces = naming(self.attack.words).split(prompt)
        first, *rest = pieces if len(pieces) > 1 else ["", prompt]
        token = [-1 - k for k in range(self.attack.tokens)]
        row = self._ids(first) + [i for piece in rest for i in (*token, *self._ids(piece))]
        if len(row) > self.target.max_length - 2:
            raise ValueError(
                f"expected prompts of at most {self.target.max_length - 2} tokens with the learned ones in place, "
                f"found {len(row)} in {prompt!r}: shorten the prompt or learn fewer tokens"
            )
        return row

    def _ids(self, piece: str) -> list[int]:
        ids: list[int] = self.target.tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    @cached_property
    def placed(self) -> Tensor:
        """Ids (B, L) with begin, end and padding, and negative numbers at the slots."""
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
        """Ids (B, L) in which the begin token, which cannot be taken for an end, stands for learned ones."""
        return torch.where(self.placed < 0, self.placed[:, :1], self.placed)

    def embeds(self, token: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) with ``token`` (K, D) in its slots."""
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
