"""Token vectors of a prompt with the concept and of the same prompt with the anchor, paired row by row.

TRCE and MACE edit only some rows of such a pair: the end tokens, or all rows beside the concept's words. Rows are found
in the tokenizer's ids. The authors' programs count words, which is wrong as soon as a word has several tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..prompts.concept_words import anchor_prompt, require_apart
from ..prompts.layout import prompt_lengths
from .closed_form import Moments, least_change
from .closed_method import ClosedForm, ErasureInputs, Problem, Solution
from .uce import guide

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

# Sentences of this package's own; the authors have lists of 15 (TRCE) and 30 (MACE), made by a language model.
_THINGS = (
    "{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "a close-up of {}",
    "a bright photo of {}", "a dark photo of {}", "{} in the morning", "{} at night", "{} in the background",
    "a large picture of {}", "a small picture of {}", "a blurred photo of {}", "a photo of {} and a tree",
    "{} beside a wall", "{} in front of a house", "a poster of {}", "a postcard of {}", "{} seen from above",
    "{} in the rain", "{} in winter", "a black and white photo of {}", "an old photo of {}", "{} on a sunny day",
    "a sketch of {}", "{} far away", "the best picture of {}", "{} on a table", "a painting of {}",
)  # fmt: skip
_STYLES = (
    "{}", "a painting by {}", "a picture by {}", "an artwork by {}", "art by {}", "an image in the style of {}",
    "a painting in the style of {}", "a drawing in the style of {}", "a portrait by {}", "a landscape by {}",
    "a house in the style of {}", "a tree in the style of {}", "a street in the style of {}", "a famous work by {}",
    "a sketch by {}", "a river in the style of {}", "a mountain by {}", "flowers in the style of {}",
    "a self portrait by {}", "a city in the style of {}", "a boat by {}", "a still life by {}", "a garden by {}",
    "a dog in the style of {}", "a field by {}", "a night scene by {}", "a bridge in the style of {}",
    "a print by {}", "a poster in the style of {}", "a room by {}",
)  # fmt: skip
TEMPLATES = len(_THINGS)
# Rows of two prompts and the weights of the pairs, all (n,), from the prompts' token ids, both (L,).
Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def prompt_pairs(concept: Concept, templates: int, *, captions: bool = False) -> list[tuple[str, str]]:
    """Return pairs of a prompt that names the concept and the same prompt with the anchor.

    Args:
        concept: Concept to erase; several are a joint concept. A concept without an anchor gets UCE's, see
            ``uce.guide``.
        templates: Number of sentences for each word of the concept.
        captions: True to take the concept's captions instead of sentences, if it has any.

    Raises:
        ValueError: If a caption does not name the concept, or the parts of a joint concept contradict each other.
    """
    require_apart(concept)
    anchored = [replace(part, anchor=guide(part)) for part in concept.parts or (concept,)]
    whole = replace(concept, parts=tuple(anchored)) if concept.parts else anchored[0]
    texts = [text for part in anchored for text in _texts(part, templates, captions)]
    return [(text, anchor_prompt(text, whole)) for text in dict.fromkeys(texts)]


def _texts(concept: Concept, templates: int, captions: bool) -> Sequence[str]:
    if captions and concept.prompts:
        return concept.prompts
    sentences = (_STYLES if concept.kind == "style" else _THINGS)[:templates]
    return [sentence.format(word) for word in concept.words() for sentence in sentences]


@dataclass(frozen=True)
class PairedVectors:
    """Reader of pairs of prompts, by the base's own text encoder.

    Args:
        backbone: Base whose text encoder is used, unchanged.
        batch: Number of pairs encoded at once.
        progress: Switch that shows a progress bar.
    """

    backbone: Backbone
    batch: int = 64
    progress: bool = False

    @torch.no_grad()
    def moments(self, pairs: Sequence[tuple[str, str]], rows: Rows) -> Moments:
        """Return the moments of the chosen rows: vectors of the first prompts, the second prompts' as their targets.

        Args:
            pairs: Pairs of prompts.
            rows: Function that chooses rows of a pair and their weights.
        """
        found = Moments.none(int(self.backbone.text_encoder.config.hidden_size))
        with self.backbone.frozen():
            for part in self._batches(pairs):
                texts = [text for pair in part for text in pair]
                ids = self.backbone.tokenize(texts).cpu()  # (2 B, L)
                hidden = self.backbone.condition(texts).to("cpu", torch.float64)  # (2 B, L, D)
                for i in range(0, len(texts), 2):
                    own, other, weights = rows(ids[i], ids[i + 1])
                    root = weights.to(torch.float64).sqrt()[:, None]
                    found += Moments.of(root * hidden[i, own], root * hidden[i + 1, other])
        return found

    def _batches(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
        starts = range(0, len(pairs), self.batch)
        for start in tqdm(starts, desc="prompt pairs", disable=not self.progress or len(starts) < 2):
            yield pairs[start : start + self.batch]


def differing(own: Tensor, other: Tensor, eos_id: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the spans of tokens in which two prompts differ, each as its start and its end.

    Before the spans and between them and the end token, both prompts have the same tokens.

    Args:
        own: Token ids (L,) of the first prompt, with begin token, end token and padding.
        other: Token ids (L,) of the second prompt.
        eos_id: Id of the end token.
    """
    n, m = (int(length) for length in prompt_lengths(torch.stack([own, other]), eos_id))
    shorter = min(n, m)
    one, two = own[1 : n + 1], other[1 : m + 1]
    start = int((one[:shorter] == two[:shorter]).int().cumprod(0).sum())
    rest = shorter - start
    end = int((one[n - rest :].flip(0) == two[m - rest :].flip(0)).int().cumprod(0).sum())
    return (start + 1, n + 1 - end), (start + 1, m + 1 - end)


def beside(own: Tensor, other: Tensor, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows beside the words in which two prompts differ, as MACE's first stage pairs them.

    These are the rows before the words, those after them up to the first end token, and the padding, as far as both
    prompts have it. All weights are 1. See ``differing`` for the arguments.
    """
    (start, end), (_, end_other) = differing(own, other, eos_id)
    before = torch.arange(start)
    after = len(own) - max(end, end_other)
    return (
        torch.cat([before, torch.arange(end, end + after)]),
        torch.cat([before, torch.arange(end_other, end_other + after)]),
        torch.ones(start + after),
    )


class PairedForm(ClosedForm):
    """A closed form that moves rows of prompts with the concept to those of the same prompts with the anchor.

    Attributes:
        texts: Texts of the pairs.
        templates: Number of sentences for each word of the concept.
        preserve: Preserved prompts.
        preserve_scale: Weight of the preserved prompts, for the mean over them.
        lamb: Weight of the squared distance from the unedited matrices.
        batch: Number of pairs encoded at once.
    """

    texts: Literal["words", "prompts"]
    templates: int
    preserve: tuple[str, ...]
    preserve_scale: float
    lamb: float
    batch: int

    def __post_init__(self) -> None:
        infinite = float("inf")
        if not (0 <= self.preserve_scale < infinite and 0 <= self.lamb < infinite):
            raise ValueError(
                f"expected finite preserve_scale >= 0 and lamb >= 0, found {self.preserve_scale} and {self.lamb}"
            )
        if not 1 <= self.templates <= TEMPLATES or self.batch < 1:
            raise ValueError(
                f"expected 1 to {TEMPLATES} templates and a batch of at least 1 prompt, found {self.templates} and "
                f"{self.batch}"
            )

    @abstractmethod
    def rows(self, own: Tensor, other: Tensor, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of a pair of prompts and their weights, all (n,).

        Args:
            own: Token ids (L,) of the prompt with the concept.
            other: Token ids (L,) of the prompt with the anchor.
            eos_id: Id of the end token.
        """

    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read the chosen rows of all pairs, and all token vectors of the preserved prompts."""
        eos_id = inputs.backbone.tokenizer.eos_token_id
        pairs = prompt_pairs(inputs.concept, self.templates, captions=self.texts == "prompts")
        reader = PairedVectors(inputs.backbone, self.batch, inputs.progress)
        moved = reader.moments(pairs, lambda own, other: self.rows(own, other, eos_id))
        kept = inputs.vectors(self.batch).kept(self.preserve, "all")
        prior = kept.scaled(self.preserve_scale / max(len(self.preserve), 1))
        return Problem(moved, kept, lambda: Solution(least_change(moved, prior, lamb=self.lamb)))
