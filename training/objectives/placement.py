"""Placement of adversarial tokens in prompts: beside the prompt's words, or in place of the concept's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import mentions
from ..prompts.layout import PromptLayout, prompt_lengths
from .config import AdversaryConfig

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

TokenPlacement = PromptLayout | int  # a layout, or a number of tokens in place of the concept's words


def insert_tokens(
    embeds: Tensor, ids: Tensor, after: Tensor, adv: Tensor, *, adv_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Insert K tokens into prompts, and return token embeddings (B, L, D) and ids (B, L).

    The last K positions, which are padding, drop out.

    Args:
        embeds: Token embeddings (B, L, D) of the prompts.
        ids: Token ids (B, L) of the prompts.
        after: Number of tokens (B,) of each prompt that stand before the new ones, without the begin token.
        adv: Embeddings (B, K, D) of the new tokens.
        adv_ids: Ids (B, K) of the new tokens if they are real tokens. With None, the id of the begin token fills their
            places, because it cannot be mistaken for an end token.
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
    """Prompts without the concept's words, and the place where the first of these words stood.

    Concept inversion (Pham et al., ICLR 2024) learns a token for that place that draws the concept again.

    Args:
        embeds: Token embeddings (N, L, D) of the prompts without the concept's words.
        ids: Token ids (N, L) of these prompts.
        after: Number of tokens (N,) of each prompt before that place.
    """

    embeds: Tensor
    ids: Tensor
    after: Tensor

    @classmethod
    def of(cls, teacher: Backbone, prompts: Sequence[str], concept: Concept) -> CutPrompts:
        """Cut every word of the concept out of the prompts.

        Raises:
            ValueError: If a prompt has no word of the concept.
        """
        pieces = [mentions(concept.words()).split(prompt) for prompt in prompts]
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
            ValueError: If a token of a prompt would be lost.
        """
        longest, room = int(prompt_lengths(self.ids, eos_id).max()), self.ids.shape[1] - 2
        if longest + k > room:
            raise ValueError(
                f"expected prompts of at most {room - k} tokens beside {k} in place of the concept's words, "
                f"found one of {longest}: shorten the prompts, or use fewer adversarial tokens"
            )

    def fill(self, index: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,) with ``adv`` (B, K, D) in that place."""
        return insert_tokens(self.embeds[index], self.ids[index], self.after[index], adv)


@dataclass(frozen=True)
class TokenPlacements:
    """Positions that adversarial tokens may take in the concept's prompts.

    Args:
        choices: Placements, one of which is drawn at a time.
        ids: Token ids (N, L) of the prompts.
        embeds: Token embeddings (N, L, D) of the prompts.
        eos_id: Id of the end token.
        cut: Prompts without the concept's words; None if no token replaces these words.
        given: Part of the N prompts' conditionings that other text encoders give; they read no adversarial tokens. None
            without such encoders.

    Raises:
        ValueError: If a prompt has no room for the tokens.
    """

    choices: tuple[TokenPlacement, ...]
    ids: Tensor
    embeds: Tensor
    eos_id: int
    cut: CutPrompts | None = None
    given: Tensor | None = None

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
        given: Tensor | None = None,
    ) -> TokenPlacements:
        """Return the placements that the settings of an attack ask for.

        Args:
            teacher: Frozen base, whose tokenizer and embeddings are used.
            adversary: Settings of the attack; None gives no placements.
            texts: Texts of the N prompts.
            concept: Concept whose words may be replaced.
            rows: Token embeddings (N, L, D) and ids (N, L) of the prompts.
            given: Part of the prompts' conditionings that other text encoders give; None without such encoders.
        """
        asked = adversary.in_place if adversary is not None else ()
        choices = (*(adversary.layouts() if adversary is not None else ()), *asked)
        eos_id = int(teacher.tokenizer.eos_token_id)
        cut = CutPrompts.of(teacher, texts, concept) if asked else None
        return cls(choices, rows[1], rows[0], eos_id, cut, given)

    def draw(self, generator: Generator) -> TokenPlacement:
        """Draw a placement."""
        return self.choices[int(torch.randint(len(self.choices), (1,), generator=generator))]

    def size(self, placement: TokenPlacement) -> int:
        """Return the number of adversarial tokens of a placement."""
        return placement.size(self.ids.shape[1]) if isinstance(placement, PromptLayout) else placement

    def put(self, placement: TokenPlacement, index: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,) with ``adv`` (B, K, D) in place."""
        if isinstance(placement, PromptLayout):
            return placement.place(self.embeds[index], self.ids[index], adv, eos_id=self.eos_id)
        if self.cut is None:
            raise ValueError(f"expected prompts without the concept's words for {placement} tokens, found none")
        return self.cut.fill(index, adv)


def placement_name(placement: TokenPlacement) -> str:
    """Return a unique name for a placement."""
    return f"{placement.placement}.{placement.k}" if isinstance(placement, PromptLayout) else f"in_place.{placement}"
