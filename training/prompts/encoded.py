"""Prompts with the frozen text encoder's tensors for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.backbone import Backbone


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts with their token ids, token embeddings and target conditionings.

    Args:
        texts: Texts of the N prompts.
        ids: Token ids (N, L).
        embeds: Token embeddings (N, L, D), which no method changes.
        targets: Target conditionings (N, L, D), which training pulls the student to; None if no term needs them.
        given: Part of the prompts' conditionings that other text encoders give, see ``Backbone.given``; None without
            such encoders.
    """

    texts: tuple[str, ...]
    ids: Tensor
    embeds: Tensor
    targets: Tensor | None = None
    given: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def read(cls, teacher: Backbone, texts: Sequence[str], targets: Sequence[str] | None = None) -> EncodedPrompts:
        """Tokenize ``texts``, and encode the prompts ``targets``, one for each text, with the frozen encoder."""
        ids = teacher.tokenize(texts)
        wanted = None if targets is None else conditionings(teacher, targets)
        parts = [teacher.given(texts[i : i + 256]) for i in range(0, len(texts), 256)]
        given = torch.cat([part for part in parts if part is not None]) if teacher.beside else None
        return cls(tuple(texts), ids, teacher.embed(ids), wanted, given)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Token embeddings (N, L, D) and ids (N, L)."""
        return self.embeds, self.ids


@torch.no_grad()
def conditionings(teacher: Backbone, texts: Sequence[str]) -> Tensor:
    """Return the frozen conditionings (N, L, D) of prompts, encoded in batches of 256."""
    return torch.cat([teacher.condition(texts[i : i + 256]) for i in range(0, len(texts), 256)])
