"""The part that all terms on any text share: settings, texts, encoded prompts, and the words of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..prompts.concept_words import in_place_of
from ..prompts.fitting_words import fitting_words, words_of
from ..prompts.vocabulary_words import whole_words
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
    def fitting(self) -> tuple[str, ...]:
        """Words that fit the concept's place, see ``fitting_words``.

        Raises:
            ValueError: If the retain prompts have no such word.
        """
        found = fitting_words(self.texts, self.concept.words(), self.retained)
        if not found:
            raise ValueError(
                f"expected retain prompts with words in the place of {self.concept.name!r} for language.pairs_weight, "
                f"found none among {len(self.retained)}, such as {self.retained[:1]}: retain prompts that differ from "
                "the concept's prompts in its word alone, or leave language.pairs_weight at 0"
            )
        return found

    @cached_property
    def roomy(self) -> tuple[str, ...]:
        """Prompts with the concept that have room for two fitting words in its place.

        Raises:
            ValueError: If there is none.
        """
        sizes = {word: len(self.teacher.tokenizer(word, add_special_tokens=False).input_ids) for word in self.fitting}
        longest, named = max(sizes, key=sizes.__getitem__), self.concept.words()
        filled = {text: in_place_of(text, named, f"{longest} {longest}") or text for text in self.texts}
        found = tuple(text for text, full in filled.items() if self.teacher.fits(full))
        if not found:
            raise ValueError(
                f"expected prompts with room for two words in the concept's place, of {self.teacher.max_length - 2} "
                f"tokens in all, found none, such as {next(iter(filled.values()))!r}: shorten the concept's prompts, "
                "or leave language.pairs_weight at 0"
            )
        return found

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """Words from anywhere: those of the retain prompts, and all whole words of the vocabulary."""
        named = {word.lower() for word in self.concept.words()}
        known = dict.fromkeys((*words_of(self.retained), *whole_words(self.teacher.tokenizer)))
        return tuple(word for word in known if word.lower() not in named)

    @cached_property
    def around(self) -> Tensor:
        """Ids (V,) of the tokens that may stand around a retain prompt: all but special ones and the concept's."""
        tokens = self.teacher.tokenizer(list(self.concept.words()), add_special_tokens=False).input_ids
        named = torch.tensor(sorted({i for row in tokens for i in row}), device=self.prompts.ordinary.device)
        return self.prompts.ordinary[~torch.isin(self.prompts.ordinary, named)]


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
        _ = language.roomy
