"""Training of those token embeddings alone that captions use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

_CHUNK = 1000


class RowSubset(nn.Module):
    """Token embeddings of a text encoder during training: the rows of the tokens that captions use.

    The other rows of the table are left out of training, so they keep their values, and the optimizer's work does not
    grow with the vocabulary. The whole table is first rounded to bfloat16, so that its random rows compress well.

    Args:
        table: Whole table of token embeddings.
        used: Ids of the tokens that captions use, in ascending order.
    """

    lookup: Tensor

    def __init__(self, table: nn.Embedding, used: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            table.weight.copy_(table.weight.bfloat16())
        self.rows = nn.Parameter(table.weight.detach()[used].clone())
        self._kept = [table]  # in a list, so that the table is no part of this module
        self.used = used
        lookup = torch.full((table.num_embeddings,), -1, dtype=torch.long)
        lookup[used] = torch.arange(len(used))
        self.register_buffer("lookup", lookup, persistent=False)

    @classmethod
    def of(cls, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Iterable[str]) -> RowSubset:
        """Replace the table of a text encoder by the rows of the tokens in ``texts``, and return these rows.

        Args:
            encoder: Text encoder; ``put_back`` gives it its table again.
            tokenizer: Tokenizer of the text encoder.
            texts: Texts that hold all words and punctuation marks of the captions.
        """
        rows = cls(encoder.get_input_embeddings(), used_tokens(tokenizer, texts))
        encoder.set_input_embeddings(rows)
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of token ids (B, L).

        Raises:
            IndexError: If a token is not among the used ones.
        """
        places = self.lookup[ids]
        if bool((places < 0).any()):
            unknown = sorted({*ids[places < 0].tolist()})
            raise IndexError(f"expected tokens that the texts of the world use, found the ids {unknown}")
        return self.rows[places]

    def put_back(self, encoder: CLIPTextModel) -> None:
        """Write the rows into the whole table, and give it back to the text encoder."""
        (table,) = self._kept
        with torch.no_grad():
            table.weight[self.used] = self.rows
        encoder.set_input_embeddings(table)


def used_tokens(tokenizer: CLIPTokenizer, texts: Iterable[str]) -> Tensor:
    """Return the ids (N,) of the tokens in texts, with start, end and padding, in ascending order."""
    found = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    listed = list(texts)
    for start in range(0, len(listed), _CHUNK):
        for ids in tokenizer(listed[start : start + _CHUNK], add_special_tokens=False).input_ids:
            found.update(ids)
    return torch.tensor(sorted(found))
