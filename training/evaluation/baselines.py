"""Negative baselines for comparison: a defence that keeps nothing, and a word filter that any app could have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from robust_encoders.pipeline.offload import mode_of

from ..diffusion.backbone import Backbone
from ..diffusion.swapping import swapped
from ..prompts.concept_words import mentions
from ..provenance import describe

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


class EmptyPromptEncoder(nn.Module):
    """A text encoder that returns the empty prompt's conditioning for every prompt.

    It still looks up token embeddings, so that attacks can replace them. The gradient at these embeddings exists and is
    zero.

    Args:
        inner: Text encoder that this one replaces. It is a part of this one, so that both are moved and cast together.
        empty: Conditioning (L, D) of the empty prompt by the inner encoder.
    """

    empty: Tensor

    def __init__(self, inner: nn.Module, empty: Tensor) -> None:
        super().__init__()
        self.inner: Any = inner
        self.training = inner.training
        # A buffer is in the state dict, so that a sketch tells this encoder from the inner one.
        self.register_buffer("empty", empty)

    @property
    def config(self) -> Any:
        """Configuration of the inner encoder."""
        return self.inner.config

    @property
    def device(self) -> torch.device:
        """Device of the conditioning."""
        return self.empty.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the conditioning."""
        return self.empty.dtype

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the inner encoder."""
        table: nn.Module = self.inner.get_input_embeddings()
        return table

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        """Return the empty prompt's conditioning (B, L, D), alone in a tuple.

        Args:
            input_ids: Token ids (B, L); only their number counts.
            attention_mask: Attention mask; it is ignored, as by the pipeline.

        Raises:
            ValueError: If there are more positions than the empty prompt was encoded in.
        """
        length = input_ids.shape[1]
        if length > len(self.empty):
            raise ValueError(f"expected at most {len(self.empty)} positions, found {length}: truncate the prompts")
        embeds: Tensor = self.get_input_embeddings()(input_ids)
        # Attention is causal, so the first positions of a longer empty prompt equal those of a shorter one. Zero times
        # the embeddings as a summand would also give a zero gradient, but not where an attack has made them infinite.
        nowhere = torch.zeros((), dtype=torch.bool, device=embeds.device)
        return (torch.where(nowhere, embeds, self.empty[:length]),)


@dataclass(frozen=True)
class EmptyPrompt:
    """A baseline that draws every prompt like the empty prompt: no text revives the concept, and none is followed.

    It shows that a rate of success means nothing without the utility beside it. Pictures that show the concept by
    chance remain. Attacks that need no text encoder (T5 to T7) still succeed.
    """

    name: ClassVar[str] = "empty_prompt"
    ignores_text: ClassVar[bool] = True

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Attach the baseline to a pipeline for the length of a ``with`` block.

        Args:
            pipe: A Stable Diffusion pipeline.

        Yields:
            The same pipeline.

        Raises:
            ValueError: If the text encoder is offloaded.
        """
        if (mode := mode_of(pipe, pipe.text_encoder)) != "none":
            raise ValueError(f"expected a pipeline without offloading, found {mode}; load it without offloading")
        backbone = Backbone.from_pipeline(pipe)
        with backbone.frozen(), torch.no_grad():
            empty = backbone.condition([""])[0]
        with swapped(pipe, "text_encoder", EmptyPromptEncoder(pipe.text_encoder, empty)):
            yield pipe

    def described(self) -> dict[str, Any]:
        """Return the name as JSON values."""
        return dict(describe(self))


class FilteredTokenizer:
    """A tokenizer that deletes words from every text before it tokenizes the text; the rest is the inner tokenizer's.

    Args:
        inner: Inner tokenizer, which also takes every attribute that is set.
        words: Filter that deletes the words.
    """

    def __init__(self, inner: Any, words: WordFilter) -> None:
        vars(self).update(_inner=inner, _words=words)

    def __call__(self, text: str | list[str] | tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        """Tokenize one text or several without the words.

        Raises:
            TypeError: If the input is anything else, such as pairs or texts split into words, which would pass
                unfiltered.
        """
        texts = [text] if isinstance(text, str) else text
        odd = not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) for one in texts)
        if odd or kwargs.get("is_split_into_words"):
            raise TypeError(f"expected a text or a list of texts, found {text!r}: the filter reads whole texts")
        kept = [self._words.filtered(one) for one in texts]
        return self._inner(kept[0] if isinstance(text, str) else kept, *args, **kwargs)

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        # A copy in the making has no attributes yet. Special methods are never taken from the inner tokenizer.
        if name in ("_inner", "_words") or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


@dataclass(frozen=True)
class WordFilter:
    """A baseline that deletes the concept's words from every prompt and negative prompt, as the cheapest defence.

    It deletes whole words in upper or lower case, also plurals and spellings with hyphens. The longest phrase goes
    first, so that a phrase goes before its parts. The filter repeats until no word is left. It stops prompts that use
    these words (T0). It does not stop words that are not on the list, tokens with a similar sound, or embeddings. If an
    attack finds tokens, their typed text is filtered, too.

    Args:
        words: Words and phrases to delete.

    Raises:
        ValueError: If there are none, or one is blank.
    """

    name: ClassVar[str] = "word_filter"

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words or not all(word.strip() for word in self.words):
            raise ValueError(f"expected words to delete, found {self.words}: name the concept's words")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return mentions(" ".join(word.split()) for word in self.words)

    def filtered(self, text: str) -> str:
        """Return a text without the words and the gaps that they leave; a text without these words is unchanged."""
        while self._pattern.search(text):  # the rest of nested phrases may be a phrase again
            text = " ".join(self._pattern.sub(" ", text).split())
        return text

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Attach the filter to a pipeline's tokenizer for the length of a ``with`` block.

        If an encoder is attached as well, attach it first, because its checks expect a tokenizer of transformers.

        Args:
            pipe: A Stable Diffusion pipeline.

        Yields:
            The same pipeline.
        """
        with swapped(pipe, "tokenizer", FilteredTokenizer(pipe.tokenizer, self)):
            yield pipe

    def described(self) -> dict[str, Any]:
        """Return name and words as JSON values."""
        return dict(describe(self))


BASELINES: tuple[str, ...] = (EmptyPrompt.name, WordFilter.name)


def baselines_for(concept: Concept) -> dict[str, EmptyPrompt | WordFilter]:
    """Return name to baseline, for the words of a concept that a defender knows: its name and synonyms.

    Args:
        concept: Concept that should be gone. Its synonyms contain no words that are held out for the evaluation.
    """
    made: tuple[EmptyPrompt | WordFilter, ...] = (EmptyPrompt(), WordFilter(concept.words()))
    return {baseline.name: baseline for baseline in made}
