"""Norms of learned vectors, measured against the token embeddings of a text encoder's vocabulary.

A CLIP text encoder normalises a copy of its residual stream before each layer, and adds the layer's output to the
stream. A vector of large norm therefore passes all layers almost unchanged, and the last normalisation gives it any
direction that somebody chose. What the encoder learned has no part in that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import nested_state, unwrapped
from robust_encoders.pipeline.textual_inversion import EMBEDDING, rows_of

# Factor above the largest norm of the vocabulary from which a learned vector is refused. The same factor above the
# median marks a token of the vocabulary itself as an outlier.
LIMIT = 10.0
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SHOWN = 6
# A vector that was copied from the vocabulary in half precision may be longer by its rounding.
_ROUNDING = 1 + 2.0**-8


@dataclass(frozen=True)
class VectorNorms:
    """Norms of learned vectors and of the vocabulary.

    Args:
        largest: Largest norm of the vocabulary, without its outliers.
        tokens: Mapping of learned tokens to the norms of their vectors; infinite for NaN or infinite values.
    """

    largest: float
    tokens: Mapping[str, float]

    def above(self, factor: float = 1.0) -> dict[str, float]:
        """Return the learned tokens whose norm exceeds the largest norm of the vocabulary times ``factor``."""
        limit = factor * self.largest * _ROUNDING
        return {token: norm for token, norm in self.tokens.items() if norm > limit}

    def describe(self, tokens: Mapping[str, float]) -> str:
        """Return tokens with their norms in words, the largest first.

        Args:
            tokens: Mapping of tokens to norms.
        """
        ordered = sorted(tokens.items(), key=lambda item: -item[1])
        named = [f"{token}: {self._times(norm)}" for token, norm in ordered[:_SHOWN]]
        return ", ".join(named) + f", and {len(ordered) - _SHOWN} more" * (len(ordered) > _SHOWN)

    def _times(self, norm: float) -> str:
        if not math.isfinite(norm):
            return "not finite"
        return f"norm {norm:.3g}, {norm / self.largest:.3g} times" if self.largest else f"norm {norm:.3g}"


def learned_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of all tokens that were added to a tokenizer, also as special tokens, by their texts.

    Args:
        tokenizer: A transformers tokenizer, or None.
    """
    if tokenizer is None:
        return {}
    own = {getattr(tokenizer, f"{name}_token", None) for name in _NAMED}
    return {token: int(index) for token, index in tokenizer.get_added_vocab().items() if token not in own}


def learned_norms(tokenizer: Any, module: Any, vocabulary: Tensor | None = None) -> VectorNorms | None:
    """Return the norms of the learned vectors in a text encoder; None if there are none.

    Args:
        tokenizer: Tokenizer of the pipeline, or None.
        module: Text encoder that holds the learned vectors; or None.
        vocabulary: Token embeddings (V, D) of the encoder that is to take over all further ones; None compares the
            learned vectors of ``module`` with its own vocabulary.
    """
    first, end = 0 if vocabulary is None else len(vocabulary), rows_of(module) or 0
    ids = {token: index for token, index in learned_ids(tokenizer).items() if first <= index < end}
    if not ids:
        return None
    norms = row_norms(token_embeddings(module))  # (V + n,)
    # Unloading a learned token leaves a row that belongs to no token: rows behind the first learned one do not count.
    own = norms[: min(ids.values())] if vocabulary is None else row_norms(vocabulary)
    return VectorNorms(_largest(own), {token: float(norms[index]) for token, index in ids.items()})


def outliers(tokenizer: Any, embeddings: Tensor) -> VectorNorms:
    """Return the tokens of a vocabulary whose norm exceeds ten times its median, and the largest norm of the others.

    Args:
        tokenizer: Tokenizer of the pipeline, or None.
        embeddings: Token embeddings (V, D).
    """
    norms = row_norms(embeddings)  # (V,)
    odd = torch.nonzero(norms > LIMIT * _median(norms)).flatten().tolist()
    texts = {} if tokenizer is None or not odd else {index: text for text, index in tokenizer.get_vocab().items()}
    return VectorNorms(_largest(norms), {texts.get(i, f"token {i}"): float(norms[i]) for i in odd})


def row_norms(embeddings: Tensor) -> Tensor:
    """Return the norms (V,) of token embeddings (V, D) in float32 on the CPU; infinite for values that are no numbers.

    Args:
        embeddings: Token embeddings (V, D) in any floating precision.
    """
    norms = torch.linalg.vector_norm(embeddings.detach(), dim=-1, dtype=torch.float32)  # (V,)
    return torch.nan_to_num(norms.cpu(), nan=math.inf, posinf=math.inf)


def token_embeddings(module: nn.Module) -> Tensor:
    """Return the token embeddings (V, D) of a text encoder as prompts meet them, with a LoRA on them.

    Args:
        module: CLIP text encoder, perhaps compiled, offloaded or adapted.
    """
    embedding: Any = unwrapped(module).get_input_embeddings()
    if hasattr(embedding, "base_layer"):  # peft's wrapper adds its product when it is called
        weight = embedding.base_layer.weight
        with torch.no_grad():
            found: Tensor = embedding(torch.arange(weight.shape[0], device=weight.device))
        return found
    weight = embedding.weight
    return nested_state(module)[EMBEDDING] if weight.is_meta else weight.detach()


def large_vectors(tokenizer: Any, module: nn.Module) -> Iterator[str]:
    """Yield sentences about token embeddings of a text encoder whose norm is beyond its vocabulary.

    Args:
        tokenizer: Tokenizer of the pipeline, or None.
        module: Text encoder in the pipeline.
    """
    norms = learned_norms(tokenizer, module)
    if norms is not None and (large := norms.above()):
        effect = "one of them can set the conditioning" if norms.above(LIMIT) else "they weigh more than any word"
        yield (
            f"learned vectors beyond the vocabulary ({norms.describe(large)} the vocabulary's largest of "
            f"{norms.largest:.3g}): {effect}, whatever the encoder learned"
        )
    if rows_of(module) is None:
        return
    learned = learned_ids(tokenizer).values()
    odd = outliers(tokenizer, token_embeddings(module)[: min(learned, default=None)])
    if odd.tokens:
        yield (
            f"tokens of the vocabulary with large vectors ({odd.describe(odd.tokens)} the largest of all others): such "
            "a token can set the conditioning, whatever the encoder learned"
        )


def _largest(norms: Tensor) -> float:
    """Return the largest norm that is not an outlier: a single unused token would make the comparison void."""
    usual = norms[norms <= LIMIT * _median(norms)]
    return float(usual.max()) if len(usual) else 0.0


def _median(norms: Tensor) -> float:
    used = norms[(norms > 0) & torch.isfinite(norms)]
    return float(used.median()) if len(used) else 0.0
