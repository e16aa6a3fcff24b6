"""Prompts with slots for free embeddings: in place of the concept's words, or of the whole prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...diffusion.backbone import Backbone
from ...prompts.concept_words import mentions


@dataclass(frozen=True)
class SlottedPrompts:
    """A batch of token rows with slots for K free embeddings.

    Args:
        target: Model under attack.
        rows: Token ids of each prompt without begin and end tokens; -1 - k stands for the k-th free embedding.
        tokens: Number K of free embeddings.
    """

    target: Backbone
    rows: Sequence[Sequence[int]]
    tokens: int

    @classmethod
    def whole(cls, target: Backbone, n: int, tokens: int) -> SlottedPrompts:
        """Return n prompts of K slots and nothing else.

        Raises:
            ValueError: If a prompt has no room for the slots.
        """
        row = [-1 - k for k in range(tokens)]
        _require_room(target, row, f"{tokens} free embeddings")
        return cls(target, [row] * n, tokens)

    @classmethod
    def before(cls, target: Backbone, prompts: Sequence[str], tokens: int) -> SlottedPrompts:
        """Return prompts with K slots before their words.

        Raises:
            ValueError: If a prompt leaves no room for the slots.
        """
        slots = [-1 - k for k in range(tokens)]
        rows = [[*slots, *_ids(target, prompt)] for prompt in prompts]
        for row, prompt in zip(rows, prompts, strict=True):
            _require_room(target, row, repr(prompt))
        return cls(target, rows, tokens)

    @classmethod
    def cut(cls, target: Backbone, prompts: Sequence[str], words: Iterable[str], tokens: int) -> SlottedPrompts:
        """Return prompts with K slots in place of every mention of ``words``, or before a prompt without a mention.

        Raises:
            ValueError: If a prompt leaves no room for the slots.
        """
        pattern, slots = mentions(words), [-1 - k for k in range(tokens)]

        def row(prompt: str) -> list[int]:
            pieces = pattern.split(prompt)
            first, *rest = pieces if len(pieces) > 1 else ["", prompt]
            found = _ids(target, first) + [i for piece in rest for i in (*slots, *_ids(target, piece))]
            _require_room(target, found, repr(prompt))
            return found

        return cls(target, [row(prompt) for prompt in prompts], tokens)

    @cached_property
    def placed(self) -> Tensor:
        """Token ids (B, L) with begin, end and padding, and negative numbers at the slots."""
        ids = self.target.tokenize([""] * len(self.rows))
        begin, tail = ids[:, :1], ids[:, 1:]
        made = [
            torch.cat([b, torch.tensor(row, device=ids.device, dtype=ids.dtype), t])
            for b, row, t in zip(begin, self.rows, tail, strict=True)
        ]
        return torch.stack([row[: ids.shape[1]] for row in made])

    @property
    def ids(self) -> Tensor:
        """Token ids (B, L) with the begin token at the slots; the encoder cannot mistake it for the end token."""
        return torch.where(self.placed < 0, self.placed[:, :1], self.placed)

    def filled(self, ids: Tensor, index: Tensor) -> Tensor:
        """Return the token ids (N, L) of prompts ``index`` (N,) with the real tokens ``ids`` (N, K) in the slots."""
        placed = self.placed[index]
        return torch.where(placed < 0, ids.gather(1, (-1 - placed).clamp(min=0)), placed)

    @cached_property
    def _plain(self) -> Tensor:
        return self.target.embed(self.ids).detach()

    @cached_property
    def _slots(self) -> Tensor:
        return one_hot((-self.placed).clamp(min=0), self.tokens + 1)[..., 1:]  # (B, L, K)

    def embeds(self, free: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) with ``free`` in the slots: (K, D) for all prompts, or (B, K, D)."""
        return torch.where(self.placed[..., None] < 0, self._slots.to(free.dtype) @ free, self._plain)


def _ids(target: Backbone, piece: str) -> list[int]:
    ids: list[int] = target.tokenizer(piece, add_special_tokens=False).input_ids
    return ids


def _require_room(target: Backbone, row: Sequence[int], what: str) -> None:
    if len(row) > target.max_length - 2:
        raise ValueError(
            f"expected prompts of at most {target.max_length - 2} tokens, learned tokens included, "
            f"found {len(row)} in {what}: shorten the prompt or learn fewer tokens"
        )
