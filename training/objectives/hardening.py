"""Terms on conditionings that harden an encoder beyond the paper's attack, at no UNet call."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import ConditioningMetric
from ..prompts.layout import prompt_lengths
from .config import HardeningConfig
from .placement import CutPrompts, TokenPlacement, TokenPlacements, insert_tokens

_TRIES = 4  # tokens drawn for each that is kept as a neighbour


class Pulled(NamedTuple):
    """Rows whose conditionings are pulled to a target."""

    name: str
    weight: float
    total: int  # rows in all processes
    embeds: Tensor  # (B, L, D)
    ids: Tensor  # (B, L)
    target: Tensor  # (B, L, D)


@dataclass(frozen=True)
class HardeningTerms:
    """Prompts with the concept, attacked or added to, and the anchored conditionings they shall have all the same.

    The attack lowers the distance to the frozen conditioning of the prompt itself. It is a surrogate for the one
    through the UNet: cheap, and blind to what else would draw the concept, so no robustness is ever judged by it.

    Args:
        teacher: The frozen base.
        student: Its text encoder is trained.
        settings: Weights, batches, attack.
        ids: Prompts with the concept (N, L).
        embeds: Their token embeddings (N, L, D).
        concept: Their frozen conditionings (N, L, D), what the attack is after.
        targets: What the student shall say (N, L, D): the frozen conditionings of the anchored prompts, or beyond.
        added: Ids (V,) of the retain prompts' tokens, which may be added.
        metric: Compares conditionings.
        places: Where adversarial tokens may stand in these prompts.
        shard: Which of the rows are this process's.
        slots: The prompts without the concept's words; None where no term wants them.
        retained: Token embeddings (N, L, D) and ids (N, L) of the retain prompts; None where there are none.
        telling: Ids (V,) of tokens that are not added to what is kept: they say something else in the concept's place.

    Raises:
        ValueError: A prompt leaves no room for the tokens of a slot, for the additions or for strangers, the term on
            neighbours has no retain prompts, or it or the one on strangers no slots.
    """

    teacher: Backbone
    student: Backbone
    settings: HardeningConfig
    ids: Tensor
    embeds: Tensor
    concept: Tensor
    targets: Tensor
    added: Tensor
    metric: ConditioningMetric
    places: TokenPlacements
    shard: Shard = field(default_factory=Shard)
    slots: CutPrompts | None = None
    retained: tuple[Tensor, Tensor] | None = None
    telling: Tensor | None = None

    def __post_init__(self) -> None:
        prompts, addable = ([self.ids] if self.settings.additions_weight > 0 else []), self.added
        doubt = self.settings.doubt
        if doubt.strangers_weight > 0:
            self._slots.check(1, self._eos)
        longest, room = int(prompt_lengths(self.ids, self._eos).max()), self.ids.shape[1] - 2
        if doubt.inserted_weight > 0 and longest + doubt.inserted_tokens > room:
            raise ValueError(
                f"expected room for {doubt.inserted_tokens} tokens more in every prompt, which has {room}, found one "
                f"of {longest}: shorten the prompts, or lower outliers.inserted_tokens"
            )
        if self.settings.neighbours_weight > 0:
            slots, retained = self._sources()
            slots.check(1 + self.settings.additions, self._eos)
            prompts.append(retained[1])
            addable = self._kept_additions
        if not prompts:
            return
        longest = max(int(prompt_lengths(ids, self._eos).max()) for ids in prompts)
        if longest + self.settings.additions > room or not len(addable):
            raise ValueError(
                f"expected tokens to add, and prompts of at most {room - self.settings.additions} tokens beside "
                f"{self.settings.additions} of them, found {len(addable)} and one of {longest}: give retain "
                "prompts, shorten the others, or lower hardening.additions"
            )

    def __call__(self, generator: Generator, *, attacked: bool) -> list[Pulled]:
        """Return this iteration's rows; not attacked, the prompts of the first term are as they are."""
        found = []
        if self.settings.in_conditioning:
            found.append(self._attacked(generator, attacked=attacked))
        if self.settings.additions_weight > 0:
            found.append(self._added_to(generator))
        if self.settings.neighbours_weight > 0:
            found.append(self._neighbours(generator))
        return found

    @cached_property
    def ordinary(self) -> Tensor:
        """Ids (V,) of all tokens but the special ones."""
        every = torch.arange(self.teacher.text_encoder.config.vocab_size, device=self.added.device)
        special = torch.tensor(self.teacher.tokenizer.all_special_ids, device=every.device)
        return every[~torch.isin(every, special)]

    @property
    def _slots(self) -> CutPrompts:
        if self.slots is None:
            raise ValueError(
                "expected prompts without the concept's words for hardening.neighbours_weight and "
                "outliers.strangers_weight, found none: give some, or leave both at 0"
            )
        return self.slots

    def _sources(self) -> tuple[CutPrompts, tuple[Tensor, Tensor]]:
        """Return what the rows of the term on neighbours are made of."""
        if self.retained is None:
            raise ValueError(
                "expected retain prompts for hardening.neighbours_weight, found none: give some, or leave it at 0"
            )
        return self._slots, self.retained

    def filled(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return this process's part of n prompts (B,), and the rows of these with ``adv`` in the concept's place.

        Args:
            n: How many prompts all processes draw.
            adv: Embeddings (B, K, D).
            generator: Draws for all processes.
        """
        index = self._drawn(n, generator)
        return index, self._slots.fill(index, adv)

    def put_anywhere(self, n: int, adv: Tensor, generator: Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``filled``, with ``adv`` in front of, behind or anywhere in prompts that keep the concept's words."""
        index = self._drawn(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        return index, insert_tokens(embeds, ids, self._anywhere(ids, n, generator), adv)

    def _anywhere(self, ids: Tensor, total: int, generator: Generator) -> Tensor:
        """Draw how many tokens (B,) of each prompt stand before what is put in: none, all or any, with equal chance.

        Args:
            ids: This process's part (B, L) of the prompts.
            total: How many all processes have.
            generator: Draws for all processes.
        """
        where, share = torch.rand(2, total, generator=generator)[:, self.shard.part(total)].to(ids.device)
        lengths = prompt_lengths(ids, self._eos)
        return torch.where(where < 1 / 3, 0, torch.where(where < 2 / 3, lengths, (share * (lengths + 1)).long()))

    @cached_property
    def _kept_additions(self) -> Tensor:
        """Ids (V,) of the tokens that may be added to what is kept."""
        return self.added if self.telling is None else self.added[~torch.isin(self.added, self.telling)]

    @property
    def _eos(self) -> int:
        return int(self.teacher.tokenizer.eos_token_id)

    def _drawn(self, n: int, generator: Generator) -> Tensor:
        """Draw this process's part of n prompts, as indices on the prompts' device."""
        return torch.randint(len(self.ids), (n,), generator=generator)[self.shard.part(n)].to(self.ids.device)

    def _attacked(self, generator: Generator, *, attacked: bool) -> Pulled:
        n = self.settings.batch
        index = self._drawn(n, generator)
        rows = self.embeds[index], self.ids[index]
        if attacked:
            place = self.places.draw(generator)
            start = self._random_tokens(n, self.places.size(place), generator)
            rows = self.places.put(place, index, self._attack(place, index, start, generator))
        return Pulled("attacked", self.settings.weight, n, *rows, self.targets[index])

    def _random_tokens(self, n: int, k: int, generator: Generator) -> Tensor:
        """Return the embeddings (B, K, D) of this process's part of n times k random tokens, specials included."""
        vocabulary = self.teacher.text_encoder.config.vocab_size
        drawn = torch.randint(vocabulary, (n, k), generator=generator)[self.shard.part(n)]
        return self.teacher.embed(drawn.to(self.ids.device)).detach()

    def _attack(self, place: TokenPlacement, index: Tensor, start: Tensor, generator: Generator) -> Tensor:
        wanted = self.concept[index]

        def loss(adv: Tensor) -> Tensor:
            return self.metric(self.student.encode(*self.places.put(place, index, adv)), wanted)

        return self.settings.attack(loss, start, generator=generator)

    def _added_to(self, generator: Generator) -> Pulled:
        """Keep the prompts with additions that are farthest from their targets, of those that were made."""
        n = self.settings.additions_batch
        index, embeds, ids = self._made(n * self.settings.candidates, generator)
        targets = self.targets[index]
        if self.settings.candidates > 1:
            with torch.no_grad():
                far = self.metric(self.student.encode(embeds, ids), targets)
            own = self.shard.part(n)
            kept = far.topk(own.stop - own.start).indices
            embeds, ids, targets = embeds[kept], ids[kept], targets[kept]
        return Pulled("additions", self.settings.additions_weight, n, embeds, ids, targets)

    @torch.no_grad()
    def _neighbours(self, generator: Generator) -> Pulled:
        """Keep what other tokens mean in the place of the concept's words, and what retain prompts do, half of each."""
        n = self.settings.neighbours_batch
        filled = self._grown(*self._filled(n - n // 2, generator), generator, total=n - n // 2, least=0, kept=True)
        kept = self._grown(*self._retained(n // 2, generator), generator, total=n // 2, least=0, kept=True)
        embeds, ids = (torch.cat(pair) for pair in zip(filled, kept, strict=True))
        target = self.teacher.encode(embeds, ids)
        return Pulled("neighbours", self.settings.neighbours_weight, n, embeds, ids, target)

    def _filled(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return this process's part of n prompts, embeddings and ids, with another token in the concept's place.

        Each process chooses among those that it drew.
        """
        own, tried = self.shard.part(n), _TRIES * n
        index = self._drawn(tried, generator)
        tokens = self.ordinary[torch.randint(len(self.ordinary), (tried, 1), generator=generator).to(index.device)]
        embeds, ids = self._sources()[0].fill(index, self.teacher.embed(tokens[self.shard.part(tried)]))
        far = self.metric(self.teacher.encode(embeds, ids), self.concept[index])
        alike = prompt_lengths(ids, self._eos) == prompt_lengths(self.ids[index], self._eos)
        mean = float(far[alike].mean()) if bool(alike.any()) else 0.0
        far = torch.where(alike, far, torch.inf)  # position by position it says nothing of the others
        # Those far enough are equals, in the order drawn; the farthest of the others fill up what they leave.
        far = far.clamp(max=self.settings.neighbours_from * mean)
        kept = far.sort(descending=True, stable=True).indices[: own.stop - own.start]
        return embeds[kept], ids[kept]

    def _retained(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw this process's part of n retain prompts: embeddings and ids."""
        embeds, ids = self._sources()[1]
        index = torch.randint(len(ids), (n,), generator=generator)[self.shard.part(n)].to(ids.device)
        return embeds[index], ids[index]

    def _made(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Put tokens into prompts with the concept, or into what is left of them without its words.

        Returns:
            This process's part of n prompts (B,), and their embeddings (B, L, D) and ids (B, L) with the tokens.
        """
        index = self._drawn(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        if self.slots is not None:
            cut = torch.rand(n, generator=generator)[self.shard.part(n)].to(ids.device)[:, None] < self.settings.cut
            ids = torch.where(cut, self.slots.ids[index], ids)
            embeds = torch.where(cut[..., None], self.slots.embeds[index], embeds)
        return index, *self._grown(embeds, ids, generator, total=n, vocabulary=self.settings.vocabulary)

    def _grown(
        self,
        embeds: Tensor,
        ids: Tensor,
        generator: Generator,
        *,
        total: int,
        least: int = 1,
        vocabulary: float = 0.0,
        kept: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Put ``least`` to ``additions`` tokens into prompts, each with equal chance in front, behind or anywhere.

        Args:
            embeds: Embeddings (B, L, D) of this process's part of the prompts.
            ids: Their ids (B, L).
            generator: Draws for the prompts of all processes.
            total: How many these are.
            least: Fewest tokens.
            vocabulary: Share of the tokens that is from the whole vocabulary.
            kept: Whether the prompts keep their meaning, so that nothing may be added that says something else.
        """
        own, device = self.shard.part(total), ids.device
        for _ in range(int(torch.randint(least, self.settings.additions + 1, (1,), generator=generator))):
            known = self._kept_additions if kept else self.added
            token = self._drawn_tokens(total, known, vocabulary, generator)[own].to(device)
            after = self._anywhere(ids, total, generator)
            embeds, ids = insert_tokens(embeds, ids, after, self.teacher.embed(token).detach(), adv_ids=token)
        return embeds, ids

    def _drawn_tokens(self, n: int, known: Tensor, vocabulary: float, generator: Generator) -> Tensor:
        """Draw tokens (n, 1) of those known, a share of them of the whole vocabulary but the special ones."""
        tokens = known[torch.randint(len(known), (n, 1), generator=generator).to(known.device)]
        if vocabulary <= 0:
            return tokens
        anything = torch.randint(len(self.ordinary), (n, 1), generator=generator).to(tokens.device)
        rare = torch.rand(n, 1, generator=generator).to(tokens.device) < vocabulary
        return torch.where(rare, self.ordinary[anything], tokens)
