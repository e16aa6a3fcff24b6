"""Placement of adversarial tokens in prompts: among their words, or in place of the concept's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import naming
from ..prompts.layout import PromptLayout, prompt_lengths
from .config import AdversaryConfig

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

TokenPlacement = PromptLayout | int  # a layout, or a number of tokens in place of the concept's words


def insert_tokens(
    embeds: Tensor, ids: Tensor, after: Tensor, adv: Tensor, *, adv_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return token embeddings (B, L, D) and ids (B, L) with K tokens put in, the tail of the padding pushed out.

    Args:
        embeds: Token embeddings (B, L, D) of the prompts.
        ids: Their ids (B, L).
        after: How many tokens (B,) of each prompt, the begin token not counted, stand before the new ones.
        adv: The new embeddings (B, K, D).
        adv_ids: Ids (B, K) of the new tokens where they are real ones; otherwise each row's begin token stands for
            them, which cannot be taken for an end.
    """
    length, k = ids.shape[1], adv.shape[1]
    names = ids[:, :1].expand(-1, k) if adv_ids is None else adv_ids
    position = torch.arange(length, device=ids.device, dtype=torch.double).expand(len(ids), -1)
    wanted = (after.to(ids.device).double() + 0.5)[:, None].expand(-1, k)
    order = torch.cat([position, wanted], dim=1).argsort(dim=1, stable=True)[:, :length]
    source = torch.cat([embeds, adv.to(embeds.dtype)], dim=1)  # (B, L + K, D)
    placed = source.gather(1, order[..., None].expand(-1, -1, embeds.shape[2]))
    return placed, torch.cat([ids, names], dim=1).gather(1, order)


@dataclass(frozen=True)
class CutPrompts:
    """Prompts without the concept's words, and where the first of these stood.

    A token learned in that place is how concept inversion (Pham et al., ICLR 2024) says what the word no longer does.

    Args:
        embeds: Token embeddings (N, L, D) of what is left of the prompts.
        ids: (N, L).
        after: How many of their tokens (N,) stand before that place.
    """

    embeds: Tensor
    ids: Tensor
    after: Tensor

    @classmethod
    def of(cls, teacher: Backbone, prompts: Sequence[str], concept: Concept) -> CutPrompts:
        """Cut every word of the concept out of the prompts.

        Raises:
            ValueError: A prompt names the concept by none of its words.
        """
        pieces = [naming(concept.words()).split(prompt) for prompt in prompts]
        if whole := [prompt for prompt, parts in zip(prompts, pieces, strict=True) if len(parts) == 1]:
            raise ValueError(
                f"expected one of {concept.words()} in every prompt, found none in {whole[:3]}: add the word to the "
                "concept's synonyms, or drop the prompt"
            )
        before = [len(teacher.tokenizer(parts[0], add_special_tokens=False).input_ids) for parts in pieces]
        ids = teacher.tokenize([" ".join(" ".join(parts).split()) for parts in pieces])
        return cls(teacher.embed(ids).detach(), ids, torch.tensor(before, device=ids.device))

    def check(self, k: int, eos_id: int) -> None:
        """Refuse prompts that leave no room for ``k`` tokens.

        Raises:
            ValueError: A token of a prompt would be lost.
        """
        longest, room = int(prompt_lengths(self.ids, eos_id).max()), self.ids.shape[1] - 2
        if longest + k > room:
            raise ValueError(
                f"expected prompts of at most {room - k} tokens beside {k} in the place of the concept's words, "
                f"found one of {longest}: shorten the prompts or use fewer adversarial tokens"
            )

    def fill(self, index: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,) with ``adv`` (B, K, D) in that place."""
        return insert_tokens(self.embeds[index], self.ids[index], self.after[index], adv)


@dataclass(frozen=True)
class TokenPlacements:
    """Where adversarial tokens may stand in the concept's prompts.

    Args:
        choices: One is drawn at a time.
        ids: Ids (N, L) of the prompts.
        embeds: Their token embeddings (N, L, D).
        eos_id: Id of the end token.
        cut: Prompts without the concept's words; None where no token takes their place.

    Raises:
        ValueError: A prompt leaves no room for the tokens.
    """

    choices: tuple[TokenPlacement, ...]
    ids: Tensor
    embeds: Tensor
    eos_id: int
    cut: CutPrompts | None = None

    def __post_init__(self) -> None:
        for choice in self.choices:
            if isinstance(choice, PromptLayout):
                choice.check(self.ids, self.eos_id)
            elif self.cut is None:
                raise ValueError(f"expected prompts without the concept's words for {choice} tokens, found none")
            else:
                self.cut.check(choice, self.eos_id)

    @classmethod
    def read(
        cls,
        teacher: Backbone,
        adversary: AdversaryConfig | None,
        texts: Sequence[str],
        concept: Concept,
        *,
        rows: tuple[Tensor, Tensor],
    ) -> TokenPlacements:
        """Return the placements that an adversary asks for in prompts, whose embeddings and ids are ``rows``."""
        asked = adversary.in_place if adversary is not None else ()
        choices = (*(adversary.layouts() if adversary is not None else ()), *asked)
        eos_id = int(teacher.tokenizer.eos_token_id)
        return cls(choices, rows[1], rows[0], eos_id, CutPrompts.of(teacher, texts, concept) if asked else None)

    def draw(self, generator: Generator) -> TokenPlacement:
        """Draw a placement."""
        return self.choices[int(torch.randint(len(self.choices), (1,), generator=generator))]

    def size(self, placement: TokenPlacement) -> int:
        """Return how many tokens stand there."""
        return placement.size(self.ids.shape[1]) if isinstance(placement, PromptLayout) else placement

    def put(self, placement: TokenPlacement, index: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,) with ``adv`` (B, K, D) in place."""
        if isinstance(placement, PromptLayout):
            return placement.place(self.embeds[index], self.ids[index], adv, eos_id=self.eos_id)
        if self.cut is None:
            raise ValueError(f"expected prompts without the concept's words for {placement} tokens, found none")
        return self.cut.fill(index, adv)


def placement_name(placement: TokenPlacement) -> str:
    """Return a name that tells placements apart."""
    return f"{placement.placement}.{placement.k}" if isinstance(placement, PromptLayout) else f"in_place.{placement}"
