"""Training of single token embeddings of a text encoder; all other parameters stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.backbone import Backbone


@dataclass(frozen=True)
class TokenRows:
    """Rows of the token embedding table in training.

    Only these rows are parameters. So neither gradients nor weight decay reach the other rows.

    Args:
        ids: Token ids (n,) of the rows, in ascending order.
        values: Values (n, D) in float32, to train.
    """

    ids: Tensor
    values: nn.Parameter

    @classmethod
    def of(cls, backbone: Backbone, words: Sequence[str], kept: Sequence[str] = ()) -> TokenRows:
        """Return the rows of all tokens of words, except tokens that kept texts share with them.

        A rare word consists of several common tokens, which other words contain, too.

        Args:
            backbone: Base with tokenizer and text encoder.
            words: Words or phrases whose tokens are trained.
            kept: Words or prompts whose tokens stay.

        Raises:
            ValueError: If no token is left.
        """
        found = _tokens(backbone, words) - _tokens(backbone, kept)
        if not found:
            raise ValueError(
                f"expected tokens of {', '.join(words)} that no kept text shares, such as {next(iter(kept), '')!r}, "
                "found none: choose another anchor or other retain prompts, or train other parameters"
            )
        table = backbone.text_encoder.get_input_embeddings().weight
        ids = torch.tensor(sorted(found), device=table.device)
        return cls(ids, nn.Parameter(table.detach()[ids].float().clone()))

    @contextmanager
    def inserted(self, text_encoder: Any) -> Iterator[None]:
        """Make a text encoder use the rows' present values inside the context, with gradients."""

        def insert(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            place = torch.searchsorted(self.ids, args[0]).clamp(max=len(self.ids) - 1)  # (B, L)
            ours = self.ids[place] == args[0]
            return torch.where(ours[..., None], self.values[place].to(output.dtype), output)

        handle = text_encoder.get_input_embeddings().register_forward_hook(insert)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def write(self, text_encoder: Any) -> None:
        """Write the values into a text encoder's embedding table."""
        table = text_encoder.get_input_embeddings().weight
        table[self.ids] = self.values.to(table.dtype)


def _tokens(backbone: Backbone, words: Sequence[str]) -> set[int]:
    return {int(one) for word in words for one in backbone.tokenizer(word, add_special_tokens=False).input_ids}
