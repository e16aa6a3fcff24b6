"""Terms on outliers, text that no caption resembles: strings, words in another order, off-manifold embeddings.

An off-manifold embedding belongs to no token: it is a mixture of several tokens' embeddings, or noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..losses import negative_guidance_target
from .caption_words import CaptionWords, Word
from .config import OutlierConfig
from .prompt_augmentation import ConceptPrompts
from .prompt_search import PromptSearch, SearchLoss
from .terms import Iteration, LossTerm, NoiseError, Points, TermRows

_PARTS = 4  # number of tokens in a mixture of embeddings
_SCALES = (0.3, 3.3)  # smallest and largest factor of an embedding's distance from the vocabulary's mean
_LEFT_OUT = 0.1  # share of words left out of a shuffled retain prompt


@dataclass(frozen=True)
class OutlierRows:
    """The part that all terms on outliers share: settings, prompts with the concept, and the words of captions.

    Args:
        config: Weights and batch sizes.
        prompts: Prompts with the concept, with their target conditionings and the share of this process.
        words: Words of captions, which separate caption-like strings from outliers.
    """

    config: OutlierConfig
    prompts: ConceptPrompts
    words: CaptionWords

    @property
    def teacher(self) -> Backbone:
        """The frozen base."""
        return self.prompts.teacher

    @cached_property
    def table(self) -> Tensor:
        """Embeddings (V, D) of all tokens but the special ones."""
        return self.teacher.embed(self.prompts.ordinary).detach()

    @torch.no_grad()
    def frozen(self, ids: Tensor) -> Tensor:
        """Return the base's conditionings (B, L, D) of rows of ids (B, L)."""
        return self.teacher.encode(self.teacher.embed(ids), ids)

    def kept(self, ids: Tensor, total: int) -> TermRows:
        """Return the term's rows of ids (B, L) that keep the base's conditioning."""
        return TermRows(total, self.teacher.embed(ids).detach(), ids, self.frozen(ids))

    def judged(self, ids: Tensor, total: int) -> TermRows:
        """Return the term's rows of ids (B, L): caption-like rows keep the base's conditioning.

        The target of an outlier is the base's conditioning of the same words with the anchor in place of every value,
        or in front if there is none, shifted by ``hardening.eta``.
        """
        words = self.words
        rows = [row[1 : row.index(self.prompts.eos, 1)] for row in ids.tolist()]
        caption_like = torch.tensor([words.is_caption_like(row) for row in rows], device=ids.device)
        anchored = self.frozen(self.tokenized([words.with_value(row, words.anchor) for row in rows]))
        eta = self.prompts.config.eta
        if eta and len(words.anchor) == len(words.name):
            named = self.frozen(self.tokenized([words.with_value(row, words.name) for row in rows]))
            anchored = negative_guidance_target(anchored, named, eta)
        target = torch.where(caption_like[:, None, None], self.frozen(ids), anchored)
        return TermRows(total, self.teacher.embed(ids).detach(), ids, target)

    def tokenized(self, rows: Sequence[Sequence[Word]]) -> Tensor:
        """Return ids (B, L) of rows of words; tokens beyond the L positions are cut off."""
        empty: list[int] = self.teacher.tokenize([""])[0].tolist()
        begin, pad, room = empty[0], empty[-1], len(empty) - 2
        cut = [[token for word in words for token in word][:room] for words in rows]
        whole = [[begin, *tokens, self.prompts.eos, *[pad] * (room - len(tokens))] for tokens in cut]
        return torch.tensor(whole, device=self.teacher.device).reshape(-1, len(empty))


@dataclass(frozen=True)
class Strings:
    """Term on random strings of words and tokens.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of rows per iteration in all processes.
    """

    name: ClassVar[str] = "strings"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        o, n, generator = self.outliers, self.least, iteration.generator
        config, words, ordinary = o.config, o.words.lexicon, o.prompts.ordinary
        counts = torch.randint(1, config.longest + 1, (n,), generator=generator).tolist()
        of_words = torch.randint(len(words), (n, config.longest), generator=generator).tolist()
        of_tokens = ordinary[torch.randint(len(ordinary), (n, config.longest), generator=generator)].tolist()
        rare = torch.rand(n, config.longest, generator=generator) < config.vocabulary
        rare &= torch.rand(n, 1, generator=generator) < 0.5
        rows = [
            [(token,) if alone else words[word] for word, token, alone in zip(w[:k], t[:k], r[:k], strict=True)]
            for k, w, t, r in zip(counts, of_words, of_tokens, rare.tolist(), strict=True)
        ]
        return o.judged(o.tokenized(rows[o.prompts.shard.part(n)]), n)


@dataclass(frozen=True)
class ShuffledCaptions:
    """Term that keeps the base's conditioning of retain prompts with their words in random order, some left out.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of rows per iteration in all processes.
    """

    name: ClassVar[str] = "shuffled"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        o, n, generator = self.outliers, self.least, iteration.generator
        kept, alternatives = [], set(o.words.alternatives)
        for i in torch.randint(len(o.words.captions), (n,), generator=generator).tolist():
            words = o.words.captions[i]
            share = torch.rand(len(words), generator=generator).tolist()
            order = torch.randperm(len(words), generator=generator).tolist()
            kept.append([words[j] for j in order if words[j] in alternatives or share[j] >= _LEFT_OUT])
        return o.kept(o.tokenized(kept[o.prompts.shard.part(n)]), n)


@dataclass(frozen=True)
class OffManifold:
    """Term that pulls prompts with an off-manifold embedding in place of the concept's words to the prompts' targets.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of rows per iteration in all processes.
    """

    name: ClassVar[str] = "off_manifold"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        o, n, generator = self.outliers, self.least, iteration.generator
        embeds = off_manifold_embeddings(o.table, n, generator)[o.prompts.shard.part(n)]
        index, rows = o.prompts.fill(n, embeds[:, None], generator)
        return TermRows(n, *rows, o.prompts.targets[index])


@dataclass(frozen=True)
class Inserted:
    """Term that pulls prompts with the concept and inserted off-manifold embeddings to the prompts' targets.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of rows per iteration in all processes.
    """

    name: ClassVar[str] = "inserted"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        o, n, generator = self.outliers, self.least, iteration.generator
        k = int(torch.randint(1, o.config.inserted_tokens + 1, (1,), generator=generator))
        embeds = off_manifold_embeddings(o.table, n * k, generator).view(n, k, -1)[o.prompts.shard.part(n)]
        index, rows = o.prompts.insert(n, embeds, generator)
        return TermRows(n, *rows, o.prompts.targets[index])


@dataclass(frozen=True)
class KeptEmptyPrompt:
    """Term that keeps the base's conditioning of the empty prompt, one row in each process.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of processes.
    """

    name: ClassVar[str] = "empty"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int

    def rows(self, iteration: Iteration) -> TermRows:
        """Return the row of the empty prompt."""
        return self.outliers.kept(self.outliers.tokenized([()]), self.least)


@dataclass(frozen=True)
class SearchedStrings:
    """Term on strings from a search through the UNet, which begins after the warm-up.

    Args:
        outliers: Settings, prompts and words.
        weight: Factor of the term's mean loss.
        least: Number of strings per iteration in all processes.
        search: Search for strings that draw the concept.
        points: Training points on the prompts with the concept.
        errors: Error of the student's predictions.
    """

    name: ClassVar[str] = "searched"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    outliers: OutlierRows
    weight: float
    least: int
    search: PromptSearch
    points: Points
    errors: NoiseError

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Return this process's rows of one iteration; None during the warm-up."""
        if not iteration.attacked:
            return None
        shard = self.outliers.prompts.shard
        ids = self.search.advance(iteration.generator, self.loss(iteration.generator), shard)
        return self.outliers.judged(ids, self.least)

    def loss(self, generator: Generator) -> SearchLoss:
        """Return the loss of strings, which is the distance between two predictions.

        One is the student's for the string, the other is the base's for the concept.
        """

        def loss(embeds: Tensor, ids: Tensor) -> Tensor:
            points = self.points.sample(self.least, generator)[1]
            return self.errors([points], [points.pred_cond], self.errors.student.encode(embeds, ids))

        return loss

    def state(self) -> dict[str, Tensor]:
        """Return the state of the search."""
        return self.search.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.search.load_state(state)


def outlier_terms(outliers: OutlierRows, points: Points | None, errors: NoiseError) -> list[LossTerm]:
    """Return the terms that the settings ask for, in the order in which they draw.

    Args:
        outliers: Settings, prompts and words.
        points: Training points on the prompts with the concept; None if there is no search.
        errors: Error of the student's predictions.
    """
    config, asked = outliers.config, outliers.config.batches()
    found: list[LossTerm] = [
        kind(outliers, getattr(config, f"{kind.name}_weight"), asked[kind.name])
        for kind in (Strings, ShuffledCaptions, OffManifold, Inserted)
        if kind.name in asked
    ]
    if config.empty_weight > 0:
        found.append(KeptEmptyPrompt(outliers, config.empty_weight, outliers.prompts.shard.count))
    if config.searches and points is not None:
        search = PromptSearch(config, outliers.teacher, outliers.prompts.ordinary)
        size = config.searched_batch
        found.append(SearchedStrings(outliers, config.searched_weight, size, search, points, errors))
    return found


def off_manifold_embeddings(vocabulary: Tensor, n: int, generator: Generator) -> Tensor:
    """Return embeddings (n, D) that belong to no token: half are mixtures of a few tokens, half are noise.

    Their distances from the vocabulary's mean vary.

    Args:
        vocabulary: Embeddings (V, D) of the tokens.
        n: Number of embeddings.
        generator: Generator on the CPU.
    """
    mean, spread = vocabulary.mean(0), vocabulary.std(0)
    rows = torch.randint(len(vocabulary), (n, _PARTS), generator=generator).to(vocabulary.device)
    # Normalised squares of normal variables follow a Dirichlet distribution with all parameters 1/2. Most of the weight
    # then falls on one or two tokens.
    shares = torch.randn(n, _PARTS, generator=generator).square()
    shares = (shares / shares.sum(1, keepdim=True)).to(vocabulary)
    scale = (_SCALES[0] + (_SCALES[1] - _SCALES[0]) * torch.rand(n, 1, generator=generator)).to(vocabulary)
    noise = torch.randn(n, vocabulary.shape[1], generator=generator).to(vocabulary) * spread
    mixed = (vocabulary[rows] * shares[..., None]).sum(1) - mean
    mixture = (torch.rand(n, 1, generator=generator) < 0.5).to(vocabulary.device)
    return mean + torch.where(mixture, scale * mixed + 0.3 * noise, scale * noise)
