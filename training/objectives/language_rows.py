"""The part that all terms on any text share: settings, texts, encoded prompts, and the words of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..prompts.vocabulary_words import tokens_like
from .concept_place import ConceptPlace, concept_places
from .language_config import LanguageConfig
from .prompt_augmentation import ConceptPrompts

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


@dataclass(frozen=True)
class LanguageRows:
    """The part that all terms on any text share: settings, texts, and the encoded prompts.

    Args:
        config: Weights and batch sizes.
        prompts: Prompts with the concept, with their target conditionings and the share of this process.
        concept: Concept to erase.
        texts: Texts of the prompts with the concept.
        retained: Retain prompts.
    """

    config: LanguageConfig
    prompts: ConceptPrompts
    concept: Concept
    texts: tuple[str, ...]
    retained: tuple[str, ...]

    @property
    def teacher(self) -> Backbone:
        """The frozen base."""
        return self.prompts.teacher

    @property
    def shard(self) -> Shard:
        """Share of this process."""
        return self.prompts.shard

    @torch.no_grad()
    def frozen(self, ids: Tensor) -> Tensor:
        """Return the base's conditionings (B, L, D) of rows of ids (B, L)."""
        return self.teacher.encode(self.teacher.embed(ids), ids)

    @cached_property
    def places(self) -> tuple[ConceptPlace, ...]:
        """The concept's place in the prompts; one place for each part of a joint concept."""
        return concept_places(self.teacher, self.concept, self.texts, self.retained)

    @cached_property
    def around(self) -> Tensor:
        """Ids (V,) of the tokens that may stand around a retain prompt.

        Special tokens are left out, all tokens of the concept's words, and those that spell such a word, or one that
        fits the concept's place. Two words that fit would blend, as "a ring cross" does, and the blend would be kept.
        """
        words, tokenizer = self.concept.words(), self.teacher.tokenizer
        tokens = {i for row in tokenizer(list(words), add_special_tokens=False).input_ids for i in row}
        fitting = [word for place in self.places for word in place.fitting]
        left_out = [*tokens, *tokens_like(tokenizer, [*words, *fitting])]
        ordinary = self.prompts.ordinary
        return ordinary[~torch.isin(ordinary, torch.tensor(left_out, device=ordinary.device))]


def require_words(language: LanguageRows) -> None:
    """Refuse terms without the prompts or the room that they need, before anything long begins.

    Raises:
        ValueError: If no retain prompt has a word in the concept's place, if the term on random tokens has no retain
            prompts, if no prompt has room for two words in the concept's place, or if a prompt has no room for the
            pool's free embeddings.
    """
    asked, room = language.config.batches(), language.teacher.max_length - 2
    if "pool" in asked and max(language.config.pool_tokens) > room:
        raise ValueError(
            f"expected language.pool_tokens of at most {room}, the room of a prompt of this base, found "
            f"{language.config.pool_tokens}: lower language.pool_tokens, or leave language.pool_weight at 0"
        )
    if ("pairs" in asked and not language.retained) or ("context" in asked and language.prompts.retained is None):
        raise ValueError(
            "expected retain prompts for language.pairs_weight and language.context_weight, found none: give retain "
            "prompts and a weight above 0 for them, or leave both weights at 0"
        )
    if "pairs" in asked:
        for place in language.places:
            _require_pairs(place, len(language.retained))


def _require_pairs(place: ConceptPlace, retained: int) -> None:
    """Refuse a place for which no word fits, or whose prompts have no room for two.

    Args:
        place: Place of the concept in the prompts.
        retained: Number of retain prompts.
    """
    if not place.fitting:
        raise ValueError(
            f"expected retain prompts with words in the place of {place.name!r} for language.pairs_weight, "
            f"found none among {retained}, such as {place.retained[:1]}: retain prompts that differ from "
            "the concept's prompts in its word alone, or leave language.pairs_weight at 0"
        )
    if not place.roomy:
        raise ValueError(
            f"expected prompts with room for two words in the concept's place, of {place.teacher.max_length - 2} "
            f"tokens in all, found none, such as {place.filled(place.texts[0])!r}: shorten the concept's prompts, "
            "or leave language.pairs_weight at 0"
        )
