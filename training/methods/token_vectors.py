"""Which token vectors of a prompt a closed-form edit moves or keeps, and sums over them, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..prompts.layout import prompt_lengths
from .closed_form import Moments

Tokens = Literal["last", "from_last", "all"]
T = TypeVar("T")


@dataclass(frozen=True)
class VectorTarget:
    """Where the token vectors of a prompt shall go: ``own`` times themselves, plus weighted ones of other prompts.

    Args:
        text: The prompt, for example the concept's name.
        guides: Weights and prompts.
        own: 0 erases, 1 adds the guides to what the prompt says (debiasing: ``c + sum_k alpha_k a_k``).
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
    """Reads token vectors of prompts off a backbone's own text encoder, the one that is deployed.

    Positions come from the tokenizer's ids. The subject of a prompt is the last of ``words`` in it, or all of it where
    it has none; of a guide, what leaves as many tokens behind it as the prompt has behind its subject.

    Args:
        backbone: Whose encoder is used, as it is.
        words: Words that name the concept.
        batch: Prompts that are encoded at once.
        progress: Show a progress bar.
    """

    backbone: Backbone
    words: tuple[str, ...] = ()
    batch: int = 64
    progress: bool = False

    @torch.no_grad()
    def moved(self, targets: Sequence[VectorTarget], tokens: Tokens) -> Moments:
        """Return the moments of the targets' token vectors.

        Args:
            targets: Any number.
            tokens: ``last`` takes one vector of each prompt, that of its last subject token, as UCE's code does since
                2025. ``from_last`` takes all from there on, end and padding with it, both prompts beginning at their
                subjects, as UCE's code did before and RECE's does. ``all`` takes all positions.
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
        """Return the moments of prompts whose token vectors stay: the last of each, or else all."""
        found = Moments.none(self._width)
        with self.backbone.frozen():
            for part in self._batches(prompts):
                hidden = self.backbone.condition(part)  # (B, L, D)
                if tokens == "last":
                    rows = torch.arange(len(part), device=hidden.device)
                    hidden = hidden[rows, self._lengths(self.backbone.tokenize(part))][:, None]
                found += Moments.of(hidden.flatten(0, 1))
        return found

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
        """Return the chosen vectors of a prompt and where they go, both (n, D)."""
        hidden = [vectors[text] for text in target.texts]  # 1 + K times (L, D)
        starts = [0] * len(hidden) if tokens == "all" else self.positions(target.texts)
        n = 1 if tokens == "last" else len(hidden[0]) - max(starts)
        own, *others = (row[start : start + n] for row, start in zip(hidden, starts, strict=True))
        moved = target.own * own
        for (weight, _), other in zip(target.guides, others, strict=True):
            moved = moved + weight * other
        return own, moved

    def positions(self, texts: Sequence[str]) -> list[int]:
        """Return where the last subject token of a prompt stands, and what stands for it in each of its guides."""
        ids = self.backbone.tokenize(texts)
        lengths = self._lengths(ids).tolist()
        subject = self._subject(ids[0, 1 : lengths[0] + 1].tolist())
        behind = lengths[0] - subject
        return [subject, *(max(length - behind, 0) for length in lengths[1:])]

    def _subject(self, ids: list[int]) -> int:
        """Return the position, counted from the begin token, at which the last named word of a prompt ends."""
        ends = [0]
        for word in self.words:
            wanted = self.backbone.tokenizer(word, add_special_tokens=False).input_ids
            ends += [
                start + len(wanted)
                for start in range(len(ids) - len(wanted) + 1)
                if wanted and ids[start : start + len(wanted)] == wanted
            ]
        return max(ends) or len(ids)
