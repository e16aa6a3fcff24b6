"""Prompts with the concept, and the changed prompts that terms on conditionings need: replaced, added, inserted tokens.

Methods that draw take a generator that is equal in all processes. Every process draws for all of them and uses the part
that its ``Shard`` names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import ConditioningMetric
from ..prompts.layout import prompt_lengths
from .config import HardeningConfig, OutlierConfig
from .placement import CutPrompts, insert_tokens

_TRIES = 4  # number of tokens drawn for each one that is kept as a neighbour

Rows = tuple[Tensor, Tensor]  # token embeddings (B, L, D) and ids (B, L)


@dataclass(frozen=True)
class ConceptPrompts:
    """Prompts with the concept, and the target conditionings of every prompt made from them.

    Args:
        teacher: Frozen base.
        student: Base with the text encoder in training.
        config: Numbers and shares of additions and neighbours.
        ids: Token ids (N, L) of the prompts.
        embeds: Token embeddings (N, L, D) of the prompts.
        concept: Frozen conditionings (N, L, D) of the prompts, the goal of attacks.
        targets: Target conditionings (N, L, D) of the student: those that the base gives the anchored prompts, shifted
            by ``hardening.eta``.
        added: Ids (V,) of the retain prompts' tokens, which may be added.
        metric: Distance between conditionings.
        shard: Share of this process.
        cut: Prompts without the concept's words; None if no term needs them.
        retained: Token embeddings (M, L, D) and ids (M, L) of the retain prompts; None if there are none.
        excluded: Ids (V,) of tokens never added to prompts that keep their conditioning, because they are alternatives
            to the concept; None excludes no token.
    """

    teacher: Backbone
    student: Backbone
    config: HardeningConfig
    ids: Tensor
    embeds: Tensor
    concept: Tensor
    targets: Tensor
    added: Tensor
    metric: ConditioningMetric
    shard: Shard = field(default_factory=Shard)
    cut: CutPrompts | None = None
    retained: Rows | None = None
    excluded: Tensor | None = None

    @cached_property
    def ordinary(self) -> Tensor:
        """Ids (V,) of all tokens but the special ones."""
        every = torch.arange(self.teacher.text_encoder.config.vocab_size, device=self.added.device)
        special = torch.tensor(self.teacher.tokenizer.all_special_ids, device=every.device)
        return every[~torch.isin(every, special)]

    @cached_property
    def kept_additions(self) -> Tensor:
        """Ids (V,) of the tokens that may be added to prompts that keep their conditioning."""
        return self.added if self.excluded is None else self.added[~torch.isin(self.added, self.excluded)]

    @property
    def eos(self) -> int:
        """Id of the end token."""
        return int(self.teacher.tokenizer.eos_token_id)

    @property
    def cut_prompts(self) -> CutPrompts:
        """The prompts without the concept's words.

        Raises:
            ValueError: If there are no such prompts.
        """
        if self.cut is None:
            raise ValueError(
                "expected prompts without the concept's words for hardening.neighbours_weight and "
                "outliers.off_manifold_weight, found none: give such prompts, or leave both weights at 0"
            )
        return self.cut

    @property
    def retain_prompts(self) -> Rows:
        """Token embeddings (N, L, D) and ids (N, L) of the retain prompts.

        Raises:
            ValueError: If there are no retain prompts.
        """
        if self.retained is None:
            raise ValueError(
                "expected retain prompts for hardening.neighbours_weight, found none: give retain prompts, or leave "
                "the weight at 0"
            )
        return self.retained

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draw this process's part of n prompts, as indices (B,) on the prompts' device."""
        return torch.randint(len(self.ids), (n,), generator=generator)[self.shard.part(n)].to(self.ids.device)

    def fill(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, Rows]:
        """Put ``adv`` in place of the concept's words, and return the prompts' indices (B,) and their rows.

        Args:
            n: Number of prompts that all processes draw together.
            adv: Embeddings (B, K, D) to put in, for this process's part of the prompts.
            generator: Generator of the draw, equal in all processes.
        """
        index = self.draw(n, generator)
        return index, self.cut_prompts.fill(index, adv)

    def insert(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, Rows]:
        """Insert ``adv`` in front of, behind or inside prompts with the concept's words; otherwise like ``fill``."""
        index = self.draw(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        return index, insert_tokens(embeds, ids, self._anywhere(ids, n, generator), adv)

    def extend(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Add tokens to prompts with the concept, or to the same prompts without its words.

        Returns:
            Indices (B,) of this process's part of n prompts, and their embeddings (B, L, D) and ids (B, L) with the
            added tokens.
        """
        index = self.draw(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        if self.cut is not None:
            chosen = torch.rand(n, generator=generator)[self.shard.part(n)].to(ids.device)[:, None] < self.config.cut
            ids = torch.where(chosen, self.cut.ids[index], ids)
            embeds = torch.where(chosen[..., None], self.cut.embeds[index], embeds)
        return index, *self.add_tokens((embeds, ids), n, generator, vocabulary=self.config.vocabulary)

    def replace(self, n: int, generator: Generator) -> Rows:
        """Return embeddings and ids of this process's part of n prompts, with a random token in the concept's place.

        Each process draws more prompts than it needs and keeps those whose conditioning is far enough from the
        concept's.
        """
        own, tried = self.shard.part(n), _TRIES * n
        index = self.draw(tried, generator)
        tokens = self.ordinary[torch.randint(len(self.ordinary), (tried, 1), generator=generator).to(index.device)]
        embeds, ids = self.cut_prompts.fill(index, self.teacher.embed(tokens[self.shard.part(tried)]))
        far = self.metric(self.teacher.encode(embeds, ids), self.concept[index])
        alike = prompt_lengths(ids, self.eos) == prompt_lengths(self.ids[index], self.eos)
        mean = float(far[alike].mean()) if bool(alike.any()) else 0.0
        far = torch.where(alike, far, torch.inf)  # rows of different lengths cannot be compared by position
        # Rows beyond the limit all count as equally far and keep their order. Then follow the nearer rows, the farthest
        # of them first.
        far = far.clamp(max=self.config.neighbours_from * mean)
        kept = far.sort(descending=True, stable=True).indices[: own.stop - own.start]
        return embeds[kept], ids[kept]

    def retain(self, n: int, generator: Generator) -> Rows:
        """Draw n retain prompts, and return embeddings and ids of this process's part."""
        embeds, ids = self.retain_prompts
        index = torch.randint(len(ids), (n,), generator=generator)[self.shard.part(n)].to(ids.device)
        return embeds[index], ids[index]

    def add_tokens(
        self,
        rows: Rows,
        total: int,
        generator: Generator,
        *,
        least: int = 1,
        vocabulary: float = 0.0,
        kept: bool = False,
    ) -> Rows:
        """Add ``least`` to ``config.additions`` tokens to each prompt: in front, behind or anywhere, equally often.

        Args:
            rows: Embeddings (B, L, D) and ids (B, L) of this process's part of the prompts.
            total: Number of prompts in all processes together.
            generator: Generator of the draw, equal in all processes.
            least: Smallest number of added tokens.
            vocabulary: Share, from 0 to 1, of the added tokens drawn from the whole vocabulary.
            kept: True if the prompts keep their conditioning; then no alternative to the concept is added.
        """
        (embeds, ids), own = rows, self.shard.part(total)
        known = self.kept_additions if kept else self.added
        for _ in range(int(torch.randint(least, self.config.additions + 1, (1,), generator=generator))):
            token = self.draw_tokens(total, known, vocabulary, generator)[own].to(ids.device)
            after = self._anywhere(ids, total, generator)
            embeds, ids = insert_tokens(embeds, ids, after, self.teacher.embed(token).detach(), adv_ids=token)
        return embeds, ids

    def draw_tokens(self, n: int, known: Tensor, vocabulary: float, generator: Generator) -> Tensor:
        """Draw n tokens (n, 1): a share ``vocabulary`` from all ordinary tokens, the others from ``known`` (V,)."""
        tokens = known[torch.randint(len(known), (n, 1), generator=generator).to(known.device)]
        if vocabulary <= 0:
            return tokens
        anything = torch.randint(len(self.ordinary), (n, 1), generator=generator).to(tokens.device)
        rare = torch.rand(n, 1, generator=generator).to(tokens.device) < vocabulary
        return torch.where(rare, self.ordinary[anything], tokens)

    def _anywhere(self, ids: Tensor, total: int, generator: Generator) -> Tensor:
        """Draw a place (B,) in each prompt, as the number of tokens before it: none, all or any, equally often.

        Args:
            ids: Token ids (B, L) of this process's part of the prompts.
            total: Number of prompts in all processes together.
            generator: Generator of the draw, equal in all processes.
        """
        where, share = torch.rand(2, total, generator=generator)[:, self.shard.part(total)].to(ids.device)
        lengths = prompt_lengths(ids, self.eos)
        return torch.where(where < 1 / 3, 0, torch.where(where < 2 / 3, lengths, (share * (lengths + 1)).long()))


def require_room(prompts: ConceptPrompts, outliers: OutlierConfig) -> None:
    """Refuse prompts without room for the terms' tokens, and terms without the prompts that they need.

    Args:
        prompts: Prompts with the concept, with the settings of additions and neighbours.
        outliers: Settings of off-manifold and inserted embeddings.

    Raises:
        ValueError: If a prompt has no room for replacing, added or inserted tokens. If the term on neighbours has no
            retain prompts. If that term or the one on off-manifold embeddings has no prompts without the concept's
            words.
    """
    config, room = prompts.config, prompts.ids.shape[1] - 2
    longest = int(prompt_lengths(prompts.ids, prompts.eos).max())
    if outliers.off_manifold_weight > 0:
        prompts.cut_prompts.check(1, prompts.eos)
    if outliers.inserted_weight > 0 and longest + outliers.inserted_tokens > room:
        raise ValueError(
            f"expected prompts with room for {outliers.inserted_tokens} more tokens, of {room} in all, found one of "
            f"{longest} tokens: shorten the prompts, or lower outliers.inserted_tokens"
        )
    extended, addable = ([prompts.ids] if config.additions_weight > 0 else []), prompts.added
    if config.neighbours_weight > 0:
        prompts.cut_prompts.check(1 + config.additions, prompts.eos)
        extended.append(prompts.retain_prompts[1])
        addable = prompts.kept_additions
    if not extended:
        return
    longest = max(int(prompt_lengths(ids, prompts.eos).max()) for ids in extended)
    if longest + config.additions > room or not len(addable):
        raise ValueError(
            f"expected tokens to add, and prompts of at most {room - config.additions} tokens with room for "
            f"{config.additions} more, found {len(addable)} tokens to add and a prompt of {longest}: give retain "
            "prompts, shorten the prompts, or lower hardening.additions"
        )
