"""Texts of token ids, also by tokenizers that have been copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids, without white space at its ends.

    In transformers 5, a copied or pickled CLIP tokenizer keeps the mark of a word's end in its texts (``red</w>``).
    Here the mark becomes the space that it stands for, as in the original.

    Args:
        tokenizer: A CLIP tokenizer.
        ids: Ids of the tokens.
    """
    text: str = tokenizer.decode(ids)
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if mark := getattr(model, "end_of_word_suffix", None):
        text = text.replace(mark, " ")
    return text.strip()
