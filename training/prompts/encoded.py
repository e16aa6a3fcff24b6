"""Prompts with what the frozen text encoder says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.backbone import Backbone


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts with all that the frozen text encoder says about them.

    Args:
        texts: N prompts.
        ids: (N, L).
        embeds: Token embeddings (N, L, D), which no eraser changes.
        targets: Frozen conditionings (N, L, D) that the student is pulled to; None where no term wants them.
    """

    texts: tuple[str, ...]
    ids: Tensor
    embeds: Tensor
    targets: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def read(cls, teacher: Backbone, texts: Sequence[str], targets: Sequence[str] | None = None) -> EncodedPrompts:
        """Tokenize ``texts``, and encode ``targets``, one for each text, in pieces."""
        ids = teacher.tokenize(texts)
        return cls(tuple(texts), ids, teacher.embed(ids), None if targets is None else conditionings(teacher, targets))

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Token embeddings (N, L, D) and ids (N, L)."""
        return self.embeds, self.ids


@torch.no_grad()
def conditionings(teacher: Backbone, texts: Sequence[str]) -> Tensor:
    """Return the frozen conditionings (N, L, D) of prompts, read in pieces."""
    return torch.cat([teacher.condition(texts[i : i + 256]) for i in range(0, len(texts), 256)])
