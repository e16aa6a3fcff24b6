"""Adversarial prompts of words near a concept, whose token embeddings an attack moves within a ball."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from .layout import prompt_lengths

RowLoss = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True, kw_only=True)
class AdversarialWordsConfig:
    """Settings of S-GRACE's adversarial prompts and of the attack on their token embeddings.

    Args:
        rows: Number of prompts for each part of the concept. The first one is the concept's name alone.
        random_tokens: Number of random tokens at the beginning of each other prompt.
        words: Smallest and largest number of related words after them.
        refresh: Chance per round that a prompt is drawn anew; otherwise the attack goes on with its embeddings.
        steps: Number of attack steps per round; 0 leaves the attack out.
        rate: Learning rate of the attack's Adam, which gets the signs of the gradients.
        radius: Largest change of each coordinate of an embedding, in units of the root mean square of the vocabulary's
            coordinates.
        similarity: Weight of the attack's second term, 1 minus the cosine to the concept's feature.

    Raises:
        ValueError: If a number is outside its range.
    """

    rows: int = 8
    random_tokens: int = 5
    words: tuple[int, int] = (3, 10)
    refresh: float = 0.8
    steps: int = 10
    rate: float = 5e-3
    radius: float = 1.0
    similarity: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.words
        if self.rows < 1 or min(self.random_tokens, self.steps) < 0 or not 1 <= low <= high:
            raise ValueError(
                "expected rows of at least 1, random_tokens and steps of at least 0, and words as a smallest and a "
                f"largest number of at least 1, found {self}"
            )
        if not 0 <= self.refresh <= 1 or self.similarity < 0 or min(self.rate, self.radius) <= 0:
            raise ValueError(
                f"expected refresh in [0, 1], similarity of at least 0, and rate and radius above 0, found {self}"
            )


class WordGroup(NamedTuple):
    """The words of one part of a concept.

    Args:
        name: Name of the part.
        related: Words near it.
    """

    name: str
    related: tuple[str, ...]


def projected(moved: Tensor, clean: Tensor, radius: float) -> Tensor:
    """Return the nearest point to ``moved`` in the L-infinity ball around ``clean``.

    Args:
        moved: Embeddings (..., D).
        clean: Embeddings (..., D) at the centre.
        radius: Largest change of a coordinate.
    """
    return clean + (moved - clean).clamp(-radius, radius)


class AdversarialWords:
    """S adversarial prompts, which live on from round to round.

    A prompt is the begin token, random tokens, related words and end tokens. Words that find no room are left out.

    Args:
        config: Settings of the prompts and of the attack.
        backbone: Base whose token embeddings the prompts begin with.
        groups: Words of each part of the concept; each part has ``config.rows`` prompts.

    Attributes:
        ids: Token ids (S, L) of the prompts.
        embeds: Token embeddings (S, L, D), as the attack left them.
        part: Numbers (S,) of the parts that the prompts belong to.
        radius: Radius of the ball, in the units of the embeddings.
    """

    def __init__(self, config: AdversarialWordsConfig, backbone: Backbone, groups: Sequence[WordGroup]) -> None:
        self.config, self.backbone, self.groups = config, backbone, tuple(groups)
        tokenizer = backbone.tokenizer
        self._known = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        table = backbone.text_encoder.get_input_embeddings().weight.detach().float()
        self.radius = config.radius * float(table.square().mean().sqrt())
        self.ids = backbone.tokenize([group.name for group in self.groups for _ in range(config.rows)])
        self.embeds = self._clean()
        self.part = torch.arange(len(self.groups)).repeat_interleave(config.rows).to(self.ids.device)
        self._drawn = False

    def refresh(self, generator: Generator) -> None:
        """Draw prompts anew: all of them in the first round, later each with the chance ``config.refresh``."""
        anew = torch.rand(len(self.ids), generator=generator) < self.config.refresh
        for row in range(len(self.ids)):
            if self._drawn and not anew[row]:
                continue
            group, place = self.groups[row // self.config.rows], row % self.config.rows
            if place:
                self.ids[row] = self._row(group, generator)
            self.embeds[row] = self._clean()[row]
        self._drawn = True

    def attack(self, loss: RowLoss, chunk: int | None = None) -> float:
        """Move the embeddings of all words so that the loss falls, and return the mean loss of the last step.

        Each step gives the signs of the gradients to Adam and projects to the ball around the words' own embeddings.

        Args:
            loss: Function from embeddings (s, L, D) and the rows that they belong to, to losses (s,).
            chunk: Largest number of rows at once; None takes all.
        """
        clean, inside, last = self._clean(), self._inside(), float("nan")
        moved = self.embeds.clone()
        optimizer = torch.optim.Adam([moved], lr=self.config.rate)
        size = len(moved) if chunk is None else chunk
        for _ in range(self.config.steps):
            parts, losses = [], []
            for start in range(0, len(moved), size):
                rows = slice(start, start + size)
                leaf = moved[rows].detach().requires_grad_()
                found = loss(leaf, rows)
                parts.append(torch.autograd.grad(found.sum(), leaf)[0])
                losses.append(found.detach())
            moved.grad = torch.cat(parts).sign() * inside
            optimizer.step()
            moved.copy_(projected(moved, clean, self.radius))
            last = float(torch.cat(losses).mean())
        self.embeds = moved.detach()
        return last

    def state(self) -> dict[str, Tensor]:
        """Return ids and embeddings of the prompts."""
        return {"words.ids": self.ids, "words.embeds": self.embeds}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``; other entries are ignored."""
        self.ids = state["words.ids"].to(self.ids.device).clone()
        self.embeds = state["words.embeds"].to(self.embeds).clone()
        self._drawn = True

    @torch.no_grad()
    def _clean(self) -> Tensor:
        """Return the words' own embeddings (S, L, D)."""
        return self.backbone.embed(self.ids).detach().float().clone()

    def _inside(self) -> Tensor:
        """Return a mask (S, L, 1) that is 1 at all tokens between the begin token and the first end token."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)
        ends = prompt_lengths(self.ids, int(self.backbone.tokenizer.eos_token_id))
        return ((position > 0) & (position <= ends[:, None])).float()[..., None]

    def _row(self, group: WordGroup, generator: Generator) -> Tensor:
        """Draw the ids (L,) of one prompt."""
        config, tokenizer, length = self.config, self.backbone.tokenizer, self.ids.shape[1]
        at = torch.randint(len(self._known), (config.random_tokens,), generator=generator)
        tokens = [self._known[i] for i in at.tolist()]
        low, high = config.words
        count = int(torch.randint(low, high + 1, (), generator=generator))
        for i in torch.randperm(len(group.related), generator=generator)[:count].tolist():
            word = tokenizer(group.related[i], add_special_tokens=False).input_ids
            if len(tokens) + len(word) <= length - 2:
                tokens += word
        row = self.backbone.tokenize([""])[0].clone()  # begin token, end token and padding
        end, padding = row[1].clone(), row[2:].clone()
        row[1 : 1 + len(tokens)] = torch.tensor(tokens, dtype=row.dtype, device=row.device)
        row[1 + len(tokens)] = end
        row[2 + len(tokens) :] = padding[: length - 2 - len(tokens)]
        return row
