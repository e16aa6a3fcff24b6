"""Prompts with the concept, and what terms on conditionings make of them: tokens replaced, added and inserted."""

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

_TRIES = 4  # tokens drawn for each that is kept as a neighbour

Rows = tuple[Tensor, Tensor]  # token embeddings (B, L, D) and ids (B, L)


@dataclass(frozen=True)
class ConceptPrompts:
    """Prompts with the concept, and the anchored conditionings that all that is made of them shall have all the same.

    Args:
        teacher: Frozen base.
        student: Base with the text encoder under training.
        config: Numbers and shares of additions and neighbours.
        ids: Ids (N, L) of the prompts.
        embeds: Their token embeddings (N, L, D).
        concept: Their frozen conditionings (N, L, D), the goal of attacks.
        targets: Goals of the student (N, L, D): the frozen conditionings of the anchored prompts, or beyond.
        added: Ids (V,) of the retain prompts' tokens, which may be added.
        metric: Distance of conditionings.
        shard: Share of this process.
        cut: Prompts without the concept's words; None where no term wants them.
        retained: Token embeddings (N, L, D) and ids (N, L) of the retain prompts; None where there are none.
        excluded: Ids (V,) of tokens that are not added to what is kept: they have another value in the concept's place.
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
        """Ids (V,) of the tokens that may be added to what is kept."""
        return self.added if self.excluded is None else self.added[~torch.isin(self.added, self.excluded)]

    @property
    def eos(self) -> int:
        """Id of the end token."""
        return int(self.teacher.tokenizer.eos_token_id)

    @property
    def cut_prompts(self) -> CutPrompts:
        """The prompts without the concept's words.

        Raises:
            ValueError: There are none.
        """
        if self.cut is None:
            raise ValueError(
                "expected prompts without the concept's words for hardening.neighbours_weight and "
                "outliers.off_manifold_weight, found none: give some, or leave both at 0"
            )
        return self.cut

    @property
    def retain_prompts(self) -> Rows:
        """Token embeddings (N, L, D) and ids (N, L) of the retain prompts.

        Raises:
            ValueError: There are none.
        """
        if self.retained is None:
            raise ValueError(
                "expected retain prompts for hardening.neighbours_weight, found none: give some, or leave it at 0"
            )
        return self.retained

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draw this process's part of n prompts, as indices (B,) on the prompts' device."""
        return torch.randint(len(self.ids), (n,), generator=generator)[self.shard.part(n)].to(self.ids.device)

    def fill(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, Rows]:
        """Return this process's part of n prompts (B,), and the rows of these with ``adv`` in the concept's place.

        Args:
            n: Prompts of all processes.
            adv: Embeddings (B, K, D).
            generator: Draws for all processes.
        """
        index = self.draw(n, generator)
        return index, self.cut_prompts.fill(index, adv)

    def insert(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, Rows]:
        """As ``fill``, with ``adv`` in front of, behind or anywhere in prompts that keep the concept's words."""
        index = self.draw(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        return index, insert_tokens(embeds, ids, self._anywhere(ids, n, generator), adv)

    def extend(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Add tokens to prompts with the concept, or to what is left of them without its words.

        Returns:
            This process's part of n prompts (B,), and their embeddings (B, L, D) and ids (B, L) with the tokens.
        """
        index = self.draw(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        if self.cut is not None:
            chosen = torch.rand(n, generator=generator)[self.shard.part(n)].to(ids.device)[:, None] < self.config.cut
            ids = torch.where(chosen, self.cut.ids[index], ids)
            embeds = torch.where(chosen[..., None], self.cut.embeds[index], embeds)
        return index, *self.add_tokens((embeds, ids), n, generator, vocabulary=self.config.vocabulary)

    def replace(self, n: int, generator: Generator) -> Rows:
        """Return this process's part of n prompts, embeddings and ids, with another token in the concept's place.

        Each process chooses among those that it drew.
        """
        own, tried = self.shard.part(n), _TRIES * n
        index = self.draw(tried, generator)
        tokens = self.ordinary[torch.randint(len(self.ordinary), (tried, 1), generator=generator).to(index.device)]
        embeds, ids = self.cut_prompts.fill(index, self.teacher.embed(tokens[self.shard.part(tried)]))
        far = self.metric(self.teacher.encode(embeds, ids), self.concept[index])
        alike = prompt_lengths(ids, self.eos) == prompt_lengths(self.ids[index], self.eos)
        mean = float(far[alike].mean()) if bool(alike.any()) else 0.0
        far = torch.where(alike, far, torch.inf)  # position by position it says nothing of the others
        # Those far enough are equals, in the order drawn; the farthest of the others fill up what they leave.
        far = far.clamp(max=self.config.neighbours_from * mean)
        kept = far.sort(descending=True, stable=True).indices[: own.stop - own.start]
        return embeds[kept], ids[kept]

    def retain(self, n: int, generator: Generator) -> Rows:
        """Draw this process's part of n retain prompts: embeddings and ids."""
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
        """Add ``least`` to ``additions`` tokens to prompts, each with equal chance in front, behind or anywhere.

        Args:
            rows: Embeddings (B, L, D) and ids (B, L) of this process's part of the prompts.
            total: Prompts of all processes.
            generator: Draws for the prompts of all processes.
            least: Smallest number of tokens.
            vocabulary: Share of the tokens that is from the whole vocabulary.
            kept: Whether the prompts keep their meaning, so that nothing may be added that has another value.
        """
        (embeds, ids), own = rows, self.shard.part(total)
        known = self.kept_additions if kept else self.added
        for _ in range(int(torch.randint(least, self.config.additions + 1, (1,), generator=generator))):
            token = self.draw_tokens(total, known, vocabulary, generator)[own].to(ids.device)
            after = self._anywhere(ids, total, generator)
            embeds, ids = insert_tokens(embeds, ids, after, self.teacher.embed(token).detach(), adv_ids=token)
        return embeds, ids

    def draw_tokens(self, n: int, known: Tensor, vocabulary: float, generator: Generator) -> Tensor:
        """Draw tokens (n, 1) of those known (V,), a share of them of the whole vocabulary but the special ones."""
        tokens = known[torch.randint(len(known), (n, 1), generator=generator).to(known.device)]
        if vocabulary <= 0:
            return tokens
        anything = torch.randint(len(self.ordinary), (n, 1), generator=generator).to(tokens.device)
        rare = torch.rand(n, 1, generator=generator).to(tokens.device) < vocabulary
        return torch.where(rare, self.ordinary[anything], tokens)

    def _anywhere(self, ids: Tensor, total: int, generator: Generator) -> Tensor:
        """Draw how many tokens (B,) of each prompt stand before what is put in: none, all or any, with equal chance.

        Args:
            ids: This process's part (B, L) of the prompts.
            total: Prompts of all processes.
            generator: Draws for all processes.
        """
        where, share = torch.rand(2, total, generator=generator)[:, self.shard.part(total)].to(ids.device)
        lengths = prompt_lengths(ids, self.eos)
        return torch.where(where < 1 / 3, 0, torch.where(where < 2 / 3, lengths, (share * (lengths + 1)).long()))


def require_room(prompts: ConceptPrompts, outliers: OutlierConfig) -> None:
    """Refuse prompts that leave no room for what the terms put in, or terms without what they are made of.

    Args:
        prompts: Prompts, with the settings of additions and neighbours.
        outliers: Settings of inserted and replacing embeddings.

    Raises:
        ValueError: A prompt leaves no room for tokens in the concept's place, additions or insertions, the term on
            neighbours has no retain prompts, or it or the one on off-manifold embeddings no prompts without the
            concept's words.
    """
    config, room = prompts.config, prompts.ids.shape[1] - 2
    longest = int(prompt_lengths(prompts.ids, prompts.eos).max())
    if outliers.off_manifold_weight > 0:
        prompts.cut_prompts.check(1, prompts.eos)
    if outliers.inserted_weight > 0 and longest + outliers.inserted_tokens > room:
        raise ValueError(
            f"expected room for {outliers.inserted_tokens} tokens more in every prompt, which has {room}, found one of "
            f"{longest}: shorten the prompts, or lower outliers.inserted_tokens"
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
            f"expected tokens to add, and prompts of at most {room - config.additions} tokens beside "
            f"{config.additions} of them, found {len(addable)} and one of {longest}: give retain prompts, shorten the "
            "others, or lower hardening.additions"
        )
