"""Tokens that textual inversion added to a pipeline (learned tokens), and the transfer of their vectors.

The vocabulary size of an encoder is its number of token embeddings; learned tokens have ids beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import PREFIX, nested_state, unwrapped

EMBEDDING = f"{PREFIX}embeddings.token_embedding.weight"


def inversion_tokens(tokenizer: Any, vocabulary: int) -> tuple[str, ...]:
    """Return the tokens beyond a vocabulary, sorted by id, if all of them were added; otherwise an empty tuple.

    Args:
        tokenizer: A transformers tokenizer, or None.
        vocabulary: Number of token embeddings before any token was added.
    """
    if tokenizer is None:
        return ()
    beyond = {index: token for token, index in tokenizer.get_vocab().items() if index >= vocabulary}
    added = set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens)
    return tuple(beyond[index] for index in sorted(beyond)) if added.issuperset(beyond.values()) else ()


def added_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the tokens that were added to a tokenizer and are not special tokens, sorted by id.

    Args:
        tokenizer: A transformers tokenizer, or None.
    """
    if tokenizer is None:
        return ()
    added, special = tokenizer.get_added_vocab(), set(tokenizer.all_special_tokens)
    return tuple(sorted((token for token in added if token not in special), key=added.__getitem__))


def tokens_without_vector(tokenizer: Any, current: nn.Module, coming: Any, vocabulary: int) -> tuple[str, ...]:
    """Return the learned tokens for which the next encoder has no vector, or another vector than the current one.

    A token for which the current encoder has no vector itself is not returned if the next one has a vector for it.

    Args:
        tokenizer: Tokenizer of the pipeline.
        current: Encoder that is taken out.
        coming: Encoder that takes its place; None leaves the slot empty.
        vocabulary: Number of token embeddings of ``current`` without learned tokens.
    """
    tokens = inversion_tokens(tokenizer, vocabulary)
    if not tokens or coming is None:
        return tokens
    ids = tokenizer.get_vocab()
    here, there = (nested_state(module)[EMBEDDING].detach().cpu().float() for module in (current, coming))
    return tuple(token for token in tokens if not _same_row(here, there, ids[token]))


def _same_row(here: Tensor, there: Tensor, index: int) -> bool:
    if index >= len(there):
        return False
    if index >= len(here):  # another pipeline with the same tokenizer loaded the token, so nothing is lost here
        return True
    # The tolerance allows for a cast of the pipeline after the vector was copied.
    return torch.allclose(here[index], there[index], rtol=2.0**-6, atol=1e-6)


def tokens_beyond(tokenizer: Any, rows: int | None) -> tuple[str, ...]:
    """Return the tokens of a tokenizer for which a text encoder has no token embedding, sorted by id.

    Args:
        tokenizer: A transformers tokenizer, or None.
        rows: Number of token embeddings of the encoder; None if it is not known.
    """
    if tokenizer is None or rows is None:
        return ()
    beyond = {index: token for token, index in tokenizer.get_vocab().items() if index >= rows}
    return tuple(beyond[index] for index in sorted(beyond))


def highest_id(tokenizer: Any) -> int:
    """Return the highest token id of a tokenizer."""
    return max(int(index) for index in tokenizer.get_vocab().values())


def rows_of(module: Any) -> int | None:
    """Return the number of token embeddings of a text encoder; None if it cannot be determined.

    The configuration may have another number, because unloading a textual inversion does not correct it.

    Args:
        module: Text encoder, perhaps compiled or offloaded; or None.
    """
    find: Callable[[], Any] = getattr(unwrapped(module), "get_input_embeddings", lambda: None)
    try:
        weight = getattr(find(), "weight", None)
    except NotImplementedError:  # transformers raises it for encoders without token embeddings
        return None
    return None if weight is None else int(weight.shape[0])


def inversion_rows(tokenizer: Any, module: Any, vocabulary: int) -> int:
    """Return the number of learned vectors that a new encoder with ``vocabulary`` tokens would have to take over.

    Args:
        tokenizer: Tokenizer of the pipeline.
        module: Text encoder in the pipeline, which holds the learned vectors.
        vocabulary: Number of token embeddings of the new encoder.
    """
    if not inversion_tokens(tokenizer, vocabulary):
        return 0
    needed = highest_id(tokenizer) + 1
    return needed - vocabulary if (rows_of(module) or 0) >= needed else 0


def first_rows(state: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Return a text encoder's state without the token embeddings beyond a vocabulary.

    Args:
        state: Mapping of ``text_model.*`` names to tensors.
        vocabulary: Number of token embeddings to keep.
    """
    kept = {EMBEDDING: state[EMBEDDING][:vocabulary]} if EMBEDDING in state else {}
    return {**state, **kept}


def carry_over(module: Any, old: nn.Module, tokenizer: Any) -> None:
    """Append the vectors of learned tokens to a new encoder's token embeddings; do nothing if there are none.

    The new encoder's own embeddings are copied first, so that other models that share them stay as they are.

    Args:
        module: New encoder, a ``CLIPTextModel``.
        old: Text encoder that it replaces.
        tokenizer: Tokenizer of the pipeline.
    """
    embedding = module.get_input_embeddings()
    vocabulary = embedding.weight.shape[0]
    if (n := inversion_rows(tokenizer, old, vocabulary)) == 0:
        return
    learned = nested_state(old)[EMBEDDING][vocabulary : vocabulary + n].detach()  # (n, D)
    together = torch.cat([embedding.weight.detach(), learned.to(embedding.weight)])  # (V + n, D)
    module.set_input_embeddings(nn.Embedding(together.shape[0], together.shape[1], _weight=together))
    module.config.vocab_size = vocabulary + n
