"""Positions of a concept's tokens in tokenized prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.backbone import Backbone
from .concept_words import mentions

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


def concept_tokens(backbone: Backbone, prompts: Sequence[str], concept: Concept) -> Tensor:
    """Return a mask (N, L) that is true at the positions of the concept's words.

    Every sub-token of every occurrence of a word counts.

    Args:
        backbone: Base whose tokenizer splits the prompts.
        prompts: N prompts with the concept.
        concept: Concept with its words.

    Raises:
        ValueError: If a prompt has no word of the concept among its first L - 2 tokens.
    """
    pattern, length = mentions(concept.words()), backbone.max_length
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in zip(mask, prompts, strict=True):
        for match in pattern.finditer(prompt):
            first = 1 + _count(backbone, prompt[: match.start()])
            row[first : min(first + _count(backbone, match[0]), length - 1)] = True
    if missing := [prompt for row, prompt in zip(mask, prompts, strict=True) if not bool(row.any())]:
        raise ValueError(
            f"expected one of {concept.words()} in every prompt, found none in {missing[:3]}: add the word to the "
            "concept's synonyms, or drop the prompt"
        )
    return mask.to(backbone.device)


def _count(backbone: Backbone, text: str) -> int:
    return len(backbone.tokenizer(text, add_special_tokens=False).input_ids)
