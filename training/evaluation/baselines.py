"""Negative baselines: a defence that keeps nothing, and one that any app could have, for every board to show."""

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
from ..provenance import describe

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


class EmptyPromptEncoder(nn.Module):
    """A text encoder that gives the empty prompt's conditioning whatever it is asked.

    It still looks its token embeddings up, so that attacks can put theirs in their place; they get a gradient, and it
    is zero.

    Args:
        inner: The text encoder whose place it takes. It is shared, so that both are moved and cast together.
        empty: That encoder's conditioning (L, D) of the empty prompt.
    """

    empty: Tensor

    def __init__(self, inner: nn.Module, empty: Tensor) -> None:
        super().__init__()
        self.inner: Any = inner
        self.training = inner.training
        # A buffer is in the state dict, so no sketch takes this encoder for the one inside.
        self.register_buffer("empty", empty)

    @property
    def config(self) -> Any:
        """Configuration of the encoder inside."""
        return self.inner.config

    @property
    def device(self) -> torch.device:
        """Where the conditioning is."""
        return self.empty.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is."""
        return self.empty.dtype

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the encoder inside."""
        table: nn.Module = self.inner.get_input_embeddings()
        return table

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        """Return the empty prompt's conditioning (B, L, D), alone in a tuple.

        Args:
            input_ids: Token ids (B, L); only their number counts.
            attention_mask: Unused, as the pipeline's own is.

        Raises:
            ValueError: If there are more positions than the empty prompt was encoded in.
        """
        length = input_ids.shape[1]
        if length > len(self.empty):
            raise ValueError(f"expected at most {len(self.empty)} positions, found {length}: truncate the prompts")
        embeds: Tensor = self.get_input_embeddings()(input_ids)
        # Attention is causal: the first positions of a longer empty prompt are those of a shorter one. A sum with zero
        # times the embeddings would do as well, but for embeddings that an attack has driven to infinity.
        nowhere = torch.zeros((), dtype=torch.bool, device=embeds.device)
        return (torch.where(nowhere, embeds, self.empty[:length]),)


@dataclass(frozen=True)
class EmptyPrompt:
    """Draws every prompt as if nothing had been asked: no text can bring the concept back, and none is followed.

    What it shows: a rate of success is worth nothing without what the encoder kept. Pictures that show the concept by
    chance stay, and so does what needs no text encoder (T5 to T7).
    """

    name: ClassVar[str] = "empty_prompt"

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Put it into a pipeline for the length of a ``with`` block.

        Args:
            pipe: A Stable Diffusion pipeline.

        Yields:
            The same pipeline.

        Raises:
            ValueError: If the text encoder is offloaded.
        """
        if (mode := mode_of(pipe, pipe.text_encoder)) != "none":
            raise ValueError(f"expected a pipeline without offloading, found {mode}: load it without")
        backbone = Backbone.from_pipeline(pipe)
        with backbone.frozen(), torch.no_grad():
            empty = backbone.condition([""])[0]
        with _swapped(pipe, "text_encoder", EmptyPromptEncoder(pipe.text_encoder, empty)):
            yield pipe

    def described(self) -> dict[str, Any]:
        """Return the name as JSON values."""
        return dict(describe(self))


class FilteredTokenizer:
    """A tokenizer that deletes words from every text before it tokenizes it; all else is the tokenizer's own.

    Args:
        inner: The tokenizer, which also takes every attribute that is set.
        words: The filter.
    """

    def __init__(self, inner: Any, words: WordFilter) -> None:
        vars(self).update(_inner=inner, _words=words)

    def __call__(self, text: str | list[str] | tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        """Tokenize a text or several, without the words.

        Raises:
            TypeError: If they are something else, such as pairs or texts cut into words, which would pass unfiltered.
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
        # While it is copied it has no attributes yet; and special methods are those of this class.
        if name in ("_inner", "_words") or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


@dataclass(frozen=True)
class WordFilter:
    """Deletes the concept's words from every prompt, negative ones too: the cheapest defence that an app can have.

    Whole words, whatever their case, with a simple plural (``s`` or ``es``) that nobody who writes a list would forget;
    the longest first, so that a phrase goes before its parts, and again until none is left. It stops prompts that use
    these words (T0) and nothing that says the concept otherwise: words that are not on the list, tokens that sound
    like it, embeddings. Tokens that an attack found are filtered when their text is typed.

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
        ordered = sorted(self.words, key=len, reverse=True)
        spoken = "|".join(r"\s+".join(map(re.escape, word.split())) for word in ordered)
        # Not \b, which looks for a letter on one side: a word of the list may end in a mark.
        return re.compile(rf"(?<!\w)(?:{spoken})(?:e?s)?(?!\w)", re.IGNORECASE)

    def filtered(self, text: str) -> str:
        """Return a text without the words, and without the gaps they leave; one that has none comes back as it is."""
        while self._pattern.search(text):  # what is left of nested phrases may be a phrase
            text = " ".join(self._pattern.sub(" ", text).split())
        return text

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Put it before a pipeline's tokenizer for the length of a ``with`` block.

        An encoder that is to be attached as well goes first: its checks want a tokenizer of transformers.

        Args:
            pipe: A Stable Diffusion pipeline.

        Yields:
            The same pipeline.
        """
        with _swapped(pipe, "tokenizer", FilteredTokenizer(pipe.tokenizer, self)):
            yield pipe

    def described(self) -> dict[str, Any]:
        """Return name and words as JSON values."""
        return dict(describe(self))


BASELINES: tuple[str, ...] = (EmptyPrompt.name, WordFilter.name)


def baselines_for(concept: Concept) -> dict[str, EmptyPrompt | WordFilter]:
    """Return name to baseline, for the words of a concept that a defender knows: its name and synonyms.

    Args:
        concept: What is to be gone. Words that are held out for the evaluation are not among its synonyms.
    """
    made: tuple[EmptyPrompt | WordFilter, ...] = (EmptyPrompt(), WordFilter(concept.words()))
    return {baseline.name: baseline for baseline in made}


@contextmanager
def _swapped(pipe: Any, slot: str, part: Any) -> Iterator[None]:
    """Put a part into a slot of a pipeline; afterwards the one that was there is back, and so is its registration."""
    before, entry = getattr(pipe, slot), pipe.config[slot]
    try:
        pipe.register_modules(**{slot: part})
        yield
    finally:
        pipe.register_modules(**{slot: before})
        pipe.register_to_config(**{slot: entry})
