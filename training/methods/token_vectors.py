"""Token vectors that a closed-form edit moves or keeps, and sums over them in batches of prompts.

A token vector is the text encoder's output at one position of a prompt, a vector of width D.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..prompts.layout import prompt_lengths
from ..prompts.word_forms import spellings
from .closed_form import Moments

Tokens = Literal["last", "from_last", "after_start", "all"]
T = TypeVar("T")


@dataclass(frozen=True)
class VectorTarget:
    """Target of a prompt's token vectors: ``own`` times themselves, plus the weighted vectors of other prompts.

    Args:
        text: Prompt to edit, for example the concept's name.
        guides: Pairs of a weight and a prompt whose vectors are added.
        own: Weight of the prompt's own vectors. 0 erases the prompt's meaning, 1 adds the guides to it (debiasing:
            ``c + sum_k alpha_k a_k``).
    """

    text: str
    guides: tuple[tuple[float, str], ...]
    own: float = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt and its guides."""
        return (self.text, *(text for _, text in self.guides))


@dataclass(frozen=True)
class TokenVectors:
    """Reader of prompts' token vectors, by the base's own text encoder.

    Positions come from the tokenizer's ids. The subject of a prompt is the last of ``words`` in it, or the whole prompt
    if it has none of them. The subject of a guide ends as many tokens before the guide's end as the prompt's subject
    ends before the prompt's end.

    Args:
        backbone: Base whose text encoder is used, unchanged.
        words: Words that name the concept.
        batch: Number of prompts encoded at once.
        progress: Switch that shows a progress bar.
    """

    backbone: Backbone
    words: tuple[str, ...] = ()
    batch: int = 64
    progress: bool = False

    @torch.no_grad()
    def moved(self, targets: Sequence[VectorTarget], tokens: Tokens) -> Moments:
        """Return the moments of the targets' token vectors.

        Args:
            targets: Prompts with their targets, any number of them.
            tokens: Positions whose vectors are taken. ``last`` takes the last token of the subject, as UCE's code does
                since 2025. ``from_last`` also takes all positions after it, end token and padding included; prompt and
                guide are aligned at their subjects. UCE's code before 2025 and RECE's do that. ``after_start`` takes
                all positions but the begin token's, ``all`` takes all.
        """
        found = Moments.none(self._width)
        with self.backbone.frozen():
            for part in self._batches(targets):
                texts = list(dict.fromkeys(text for target in part for text in target.texts))
                hidden = self.backbone.condition(texts).to("cpu", torch.float64)  # (B, L, D)
                vectors = dict(zip(texts, hidden, strict=True))
                pairs = [self._pair(target, vectors, tokens) for target in part]
                found += Moments.of(torch.cat([c for c, _ in pairs]), torch.cat([t for _, t in pairs]))
        return found

    @torch.no_grad()
    def kept(self, prompts: Sequence[str], tokens: Tokens) -> Moments:
        """Return the moments of the vectors that prompts keep, see ``read``."""
        found = Moments.none(self._width)
        with self.backbone.frozen():
            for vectors in self._read(prompts, tokens):
                found += Moments.of(vectors)
        return found

    @torch.no_grad()
    def read(self, prompts: Sequence[str], tokens: Tokens) -> Tensor:
        """Return the vectors of prompts themselves (N, D), in float64 on the CPU.

        Args:
            prompts: Prompts, at least one.
            tokens: Positions. ``last`` takes the last token of each prompt, ``after_start`` all but the begin token's,
                and any other value all positions.
        """
        with self.backbone.frozen():
            return torch.cat([vectors.to("cpu", torch.float64) for vectors in self._read(prompts, tokens)])

    def _read(self, prompts: Sequence[str], tokens: Tokens) -> Iterator[Tensor]:
        for part in self._batches(prompts):
            hidden = self.backbone.condition(part)  # (B, L, D)
            if tokens == "last":
                rows = torch.arange(len(part), device=hidden.device)
                hidden = hidden[rows, self._lengths(self.backbone.tokenize(part))][:, None]
            yield hidden[:, 1 if tokens == "after_start" else 0 :].flatten(0, 1)

    @property
    def _width(self) -> int:
        return int(self.backbone.text_encoder.config.hidden_size)

    def _batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        starts = range(0, len(items), self.batch)
        for start in tqdm(starts, desc="token vectors", disable=not self.progress or len(starts) < 2):
            yield items[start : start + self.batch]

    def _lengths(self, ids: Tensor) -> Tensor:
        return prompt_lengths(ids, self.backbone.tokenizer.eos_token_id)

    def _pair(self, target: VectorTarget, vectors: Mapping[str, Tensor], tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the chosen vectors of a prompt and their targets, both (n, D)."""
        hidden = [vectors[text] for text in target.texts]  # 1 + K times (L, D)
        fixed = {"all": 0, "after_start": 1}.get(tokens)
        starts = self.positions(target.texts) if fixed is None else [fixed] * len(hidden)
        n = 1 if tokens == "last" else len(hidden[0]) - max(starts)
        own, *others = (row[start : start + n] for row, start in zip(hidden, starts, strict=True))
        moved = target.own * own
        for (weight, _), other in zip(target.guides, others, strict=True):
            moved = moved + weight * other
        return own, moved

    def positions(self, texts: Sequence[str]) -> list[int]:
        """Return the position of the last subject token of a prompt, and the matching position in each of its guides.

        Args:
            texts: Prompt, followed by its guides.
        """
        ids = self.backbone.tokenize(texts)
        lengths = self._lengths(ids).tolist()
        subject = self._subject(ids[0, 1 : lengths[0] + 1].tolist())
        behind = lengths[0] - subject
        return [subject, *(max(length - behind, 0) for length in lengths[1:])]

    def _subject(self, ids: list[int]) -> int:
        """Return the position of the last token of the prompt's subject; the begin token has position 0."""
        ends = [0]
        for wanted in self._spoken:
            ends += [
                start + len(wanted)
                for start in range(len(ids) - len(wanted) + 1)
                if wanted and ids[start : start + len(wanted)] == wanted
            ]
        return max(ends) or len(ids)

    @cached_property
    def _spoken(self) -> list[list[int]]:
        """Ids of the words, and of their plurals and hyphen spellings."""
        return [
            self.backbone.tokenizer(form, add_special_tokens=False).input_ids
            for word in self.words
            for form in spellings(word)
        ]
