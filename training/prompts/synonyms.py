"""Synonyms of a concept, found as its nearest neighbours in the base's own text encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from robust_encoders.concepts import Concept
from robust_encoders.utils.text_lists import require_texts

from ..diffusion.backbone import Backbone
from .concept_words import mentions, require_apart
from .layout import prompt_lengths

if TYPE_CHECKING:
    from collections.abc import Iterable

SynonymSpace = Literal["embedding", "conditioning"]
# CLIP marks a token that ends a word.
_END = "</w>"
# Shorter tokens are letters, prepositions and word endings.
_SHORTEST = 3
# Number of nearest token embeddings, the only words that are compared by conditioning.
_SHORTLIST = 500


@dataclass(frozen=True, kw_only=True)
class SynonymConfig:
    """Settings of the search for a concept's nearest words.

    Args:
        k: Largest number of words.
        threshold: Smallest cosine of a word to the concept, in [-1, 1]. The default separates the held-out synonyms of
            the embedded base from its other words.
        space: Space of the cosine. ``embedding`` is that of token embeddings, as in RACE (Kim et al., ECCV 2024).
            ``conditioning`` is that of the text encoder's output at the end of the bare word; of the vocabulary, the
            500 nearest token embeddings are compared there.

    Raises:
        ValueError: If a value is outside its range.
    """

    k: int = 5
    threshold: float = 0.4
    space: SynonymSpace = "embedding"

    def __post_init__(self) -> None:
        if self.k < 1 or not -1 <= self.threshold <= 1 or self.space not in get_args(SynonymSpace):
            raise ValueError(
                f"expected k of at least 1, a threshold in [-1, 1] and a space in {get_args(SynonymSpace)}, found "
                f"{self}"
            )


@dataclass(frozen=True)
class Neighbour:
    """A word near a concept.

    Args:
        word: The word.
        cosine: Cosine of the word to the concept; 1 is the same direction.
    """

    word: str
    cosine: float


@torch.no_grad()
def nearest_words(
    backbone: Backbone, concept: Concept, config: SynonymConfig, *, excluded: Iterable[str] = ()
) -> tuple[Neighbour, ...]:
    """Return the words nearest to the concept's name, the nearest first.

    Candidates are the tokens of the vocabulary that are whole words: they have at least three letters and nothing else,
    and as a text they are this one token. Special tokens, the words of the concept and of its anchor, and the endings
    of the concept's words are left out. The embedding of a name of several tokens is the mean of theirs.

    Args:
        backbone: Base, with its tokenizer and text encoder.
        concept: A single concept, not a joint one.
        config: Number of words, threshold and space.
        excluded: Further words that are left out.
    """
    own = _words_in((*concept.words(), concept.anchor, *excluded))
    endings = tuple(_words_in(concept.words()))
    candidates = {
        word: i
        for word, i in _whole_words(backbone).items()
        if word not in own and not any(one.endswith(word) for one in endings)
    }
    if not candidates:
        return ()
    words, ids = list(candidates), torch.tensor(list(candidates.values()), device=backbone.text_encoder.device)
    name = torch.tensor(_ids(backbone, concept.name), device=ids.device)
    cosines = F.cosine_similarity(_embedded(backbone, ids), _embedded(backbone, name).mean(0, keepdim=True))
    if config.space == "conditioning":
        near = cosines.topk(min(_SHORTLIST, len(words))).indices
        words = [words[i] for i in near.tolist()]
        cosines = F.cosine_similarity(_ends(backbone, words), _ends(backbone, [concept.name]))
    values, order = cosines.topk(min(config.k, len(words)))
    found = (Neighbour(words[i], value) for value, i in zip(values.tolist(), order.tolist(), strict=True))
    return tuple(one for one in found if one.cosine >= config.threshold)


def with_synonyms(concept: Concept, words: Sequence[str]) -> Concept:
    """Return a single concept with further synonyms, and with prompts that state them in the concept's place.

    Each synonym gets as many prompts as each word of the concept has on average, spread evenly among the others. So the
    first n prompts contain about equal shares of all words. A concept without prompts gets its words as prompts.

    Args:
        concept: A single concept, not a joint one.
        words: Synonyms to add.
    """
    require_texts("words", words)
    if not words:
        return concept
    wider = replace(concept, synonyms=tuple(dict.fromkeys((*concept.synonyms, *words))))
    if not concept.prompts:
        return replace(wider, prompts=wider.words())
    each = max(1, round(len(concept.prompts) / len(concept.words())))
    named = mentions(concept.words())
    usable = [prompt for prompt in concept.prompts if named.search(prompt)]
    lists = [list(concept.prompts), *(_restated(usable, concept, word, each, i) for i, word in enumerate(words))]
    spread = sorted((((i + 0.5) / len(texts), texts[i]) for texts in lists for i in range(len(texts))), key=_position)
    return replace(wider, prompts=tuple(dict.fromkeys(text for _, text in spread)))


def with_synonyms_of_parts(concept: Concept, found: Sequence[Sequence[str]]) -> Concept:
    """Return a concept with further synonyms of each part, or of the concept itself if it has no parts.

    Args:
        concept: Concept, single or joint.
        found: Synonyms of each part, in the order of the parts.

    Raises:
        ValueError: If parts of a joint concept contradict each other with these synonyms.
    """
    parts = concept.parts or (concept,)
    joint = Concept.joint([with_synonyms(part, words) for part, words in zip(parts, found, strict=True)])
    require_apart(joint)
    return joint


def without_words(prompts: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts that name none of the words."""
    if not words:
        return tuple(prompts)
    named = mentions(words)
    return tuple(prompt for prompt in prompts if not named.search(prompt))


def _position(placed: tuple[float, str]) -> float:
    return placed[0]


def _restated(prompts: Sequence[str], concept: Concept, word: str, n: int, shift: int) -> list[str]:
    """Return up to n prompts, taken at equal distances, with ``word`` in the concept's place and a fitting article."""
    mention = re.compile(rf"(?:(?<!\w)(?P<article>an?)(?P<gap>\s+))?{mentions(concept.words()).pattern}", re.IGNORECASE)
    article = "an" if word[0].lower() in "aeiou" else "a"

    def restated(match: re.Match[str]) -> str:
        return f"{article}{match['gap']}{word}" if match["article"] else word

    count = min(n, len(prompts))
    chosen = [prompts[(i * len(prompts) // count + shift) % len(prompts)] for i in range(count)]
    return [mention.sub(restated, prompt) for prompt in chosen]


def _whole_words(backbone: Backbone) -> dict[str, int]:
    """Return the tokens that are whole words, by word, in the order of their ids."""
    special = set(backbone.tokenizer.all_special_tokens)
    found: dict[str, int] = {}
    for token, i in sorted(backbone.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token.removesuffix(_END)
        plain = token.endswith(_END) and len(word) >= _SHORTEST and word.isascii() and word.isalpha()
        if plain and token not in special and _ids(backbone, word) == [i]:
            found[word] = i
    return found


def _words_in(texts: Iterable[str]) -> set[str]:
    """Return the words of texts, each also as a whole, in lower case."""
    lower = [text.lower() for text in texts]
    return {*lower, *(word for text in lower for word in re.findall(r"\w+", text))}


def _ids(backbone: Backbone, text: str) -> list[int]:
    found: list[int] = backbone.tokenizer(text, add_special_tokens=False).input_ids
    return found


def _embedded(backbone: Backbone, ids: Tensor) -> Tensor:
    return backbone.embed(ids).float()


def _ends(backbone: Backbone, words: Sequence[str]) -> Tensor:
    """Return the text encoder's outputs (N, D) at the end tokens of bare words."""
    parts = []
    for start in range(0, len(words), 128):
        texts = words[start : start + 128]
        ends = prompt_lengths(backbone.tokenize(texts), backbone.tokenizer.eos_token_id) + 1
        hidden = backbone.condition(texts)
        parts.append(hidden[torch.arange(len(texts), device=hidden.device), ends.to(hidden.device)].float())
    return torch.cat(parts)
