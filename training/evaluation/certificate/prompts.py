"""All prompts of up to two tokens of a tokenizer.

A prompt is a text, so a sequence of tokens counts if some text gives it. The ids that no text gives are left out: the
beginning of a word alone, or two parts that the tokenizer would join. Such a sequence is recognised because its own
text is read back as other ids. Special tokens mark the beginning, end and padding of every prompt. They are no tokens
of a prompt, even if somebody types them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...progress import ProgressBar

# CLIP marks a token that ends a word, and every text ends with such a token.
_END = "</w>"


@dataclass(frozen=True)
class ShortPrompts:
    """The empty prompt, prompts of one token, and prompts of two tokens, in this order.

    Args:
        singles: Ids (S,) of the prompts of one token.
        pairs: Ids (P, 2) of the prompts of two tokens.
    """

    singles: Tensor
    pairs: Tensor

    def __len__(self) -> int:
        return 1 + len(self.singles) + len(self.pairs)

    def ids(self, places: Iterable[int]) -> list[tuple[int, ...]]:
        """Return the token ids of prompts, without begin, end and padding.

        Args:
            places: Places of the prompts in the order of this object, counted from 0.
        """
        return [self._at(place) for place in places]

    def _at(self, place: int) -> tuple[int, ...]:
        if place == 0:
            return ()
        if place <= len(self.singles):
            return (int(self.singles[place - 1]),)
        first, second = self.pairs[place - 1 - len(self.singles)].tolist()
        return first, second

    @property
    def sha256(self) -> str:
        """Hash of all ids in their order."""
        digest = hashlib.sha256()
        for part in (self.singles, self.pairs):
            digest.update(repr(tuple(part.shape)).encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def ordinary_ids(tokenizer: Any) -> list[int]:
    """Return the ids of all tokens but the special ones, in their order."""
    special = set(tokenizer.all_special_ids)
    return sorted(i for i in tokenizer.get_vocab().values() if i not in special)


def texts_of(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of rows of token ids.

    Args:
        tokenizer: A CLIP tokenizer.
        rows: Token ids of the texts, without begin, end and padding.
    """
    found: list[str] = tokenizer.batch_decode([list(row) for row in rows], clean_up_tokenization_spaces=False)
    return found


def from_text(tokenizer: Any, rows: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the rows of ids that a text gives: those whose text is read back as the same ids.

    Args:
        tokenizer: A CLIP tokenizer.
        rows: Token ids, without begin, end and padding.
    """
    if not rows:
        return []
    again = tokenizer(texts_of(tokenizer, rows), add_special_tokens=False).input_ids
    return [row for row, ids in zip(rows, again, strict=True) if list(row) == ids]


def single_prompts(tokenizer: Any) -> Tensor:
    """Return the ids (S,) of all prompts of one token."""
    found = from_text(tokenizer, [(i,) for i in ordinary_ids(tokenizer)])
    return torch.tensor([row[0] for row in found], dtype=torch.int64)


def pair_prompts(tokenizer: Any, among: Sequence[int] | None = None) -> Tensor:
    """Return the ids (P, 2) of all prompts of two tokens.

    The two may be two words, or two parts of one word.

    Args:
        tokenizer: A CLIP tokenizer.
        among: Ids that both tokens come from; None for all tokens but the special ones.
    """
    known = ordinary_ids(tokenizer) if among is None else list(among)
    added = set(tokenizer.get_added_vocab().values())
    marked = zip(known, tokenizer.convert_ids_to_tokens(known), strict=True)
    ends = [i for i, token in marked if token.endswith(_END) or i in added]
    found: list[tuple[int, ...]] = []
    with ProgressBar(total=len(known), desc="list prompts of two tokens", unit="token") as bar:
        for first in known:
            found += from_text(tokenizer, [(first, second) for second in ends])
            bar.update()
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
