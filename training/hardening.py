"""Terms on conditionings that harden an encoder beyond the paper's attack, at no UNet call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .backbone import Backbone
from .losses import ConditioningMetric
from .prompts import PromptLayout, prompt_lengths
from .settings import Adversary, Harden
from .sharding import Shard
from .slots import Slots, insert_tokens

Placer = Callable[[Tensor], tuple[Tensor, Tensor]]


class Pulled(NamedTuple):
    """Rows whose conditionings are pulled to a target."""

    name: str
    weight: float
    total: int  # rows in all processes
    embeds: Tensor  # (B, L, D)
    ids: Tensor  # (B, L)
    target: Tensor  # (B, L, D)


@dataclass(frozen=True)
class Hardening:
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
        anchored: The frozen conditionings (N, L, D) of the anchored prompts, what the student shall say.
        added: Ids (V,) of the tokens that may be added.
        metric: Compares conditionings.
        slots: The prompts without the concept's words; None where no token takes their place.
        shard: Which of the rows are this process's.

    Raises:
        ValueError: A prompt leaves no room for the tokens of a slot, or for the additions.
    """

    teacher: Backbone
    student: Backbone
    settings: Harden
    ids: Tensor
    embeds: Tensor
    concept: Tensor
    anchored: Tensor
    added: Tensor
    metric: ConditioningMetric
    slots: Slots | None = None
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        if self.slots is not None:
            for k in self.settings.slots:
                self.slots.check(k, self._eos)
        if self.settings.additions_weight <= 0:
            return
        longest, room = int(prompt_lengths(self.ids, self._eos).max()), self.ids.shape[1] - 2
        if longest + self.settings.additions > room or not len(self.added):
            raise ValueError(
                f"expected tokens to add, and prompts of at most {room - self.settings.additions} tokens beside "
                f"{self.settings.additions} of them, found {len(self.added)} and one of {longest}: give retain "
                "prompts, shorten the others, or lower Harden.additions"
            )

    def __call__(self, adversary: Adversary | None, generator: Generator) -> list[Pulled]:
        """Return this iteration's rows; without adversary the prompts of the first term are as they are."""
        found = []
        if self.settings.in_conditioning:
            found.append(self._attacked(adversary, generator))
        if self.settings.additions_weight > 0:
            found.append(self._added_to(generator))
        return found

    @property
    def _eos(self) -> int:
        return int(self.teacher.tokenizer.eos_token_id)

    def _drawn(self, n: int, generator: Generator) -> Tensor:
        """Draw this process's part of n prompts, as indices on the prompts' device."""
        return torch.randint(len(self.ids), (n,), generator=generator)[self.shard.part(n)].to(self.ids.device)

    def _attacked(self, adversary: Adversary | None, generator: Generator) -> Pulled:
        n = self.settings.batch
        index = self._drawn(n, generator)
        rows = self.embeds[index], self.ids[index]
        if adversary is not None:
            k, place = self._placement(adversary, index, generator)
            rows = place(self._attack(place, index, self._random_tokens(n, k, generator), generator))
        return Pulled("attacked", self.settings.weight, n, *rows, self.anchored[index])

    def _placement(self, adversary: Adversary, index: Tensor, generator: Generator) -> tuple[int, Placer]:
        """Draw where the tokens go; return how many they are, and what puts them there."""
        choices = [*adversary.layouts(), *self.settings.slots]
        choice = choices[int(torch.randint(len(choices), (1,), generator=generator))]
        slots = self.slots
        if isinstance(choice, PromptLayout):
            layout, rows = choice, (self.embeds[index], self.ids[index])
            return layout.size(self.ids.shape[1]), lambda adv: layout.place(*rows, adv, eos_id=self._eos)
        if slots is None:
            raise ValueError(f"expected prompts with their concept cut out for slots {self.settings.slots}, found none")
        return choice, lambda adv: slots.fill(index, adv)

    def _random_tokens(self, n: int, k: int, generator: Generator) -> Tensor:
        """Return the embeddings (B, K, D) of this process's part of n times k random tokens, specials included."""
        vocabulary = self.teacher.text_encoder.config.vocab_size
        drawn = torch.randint(vocabulary, (n, k), generator=generator)[self.shard.part(n)]
        return self.teacher.embed(drawn.to(self.ids.device)).detach()

    def _attack(self, place: Placer, index: Tensor, start: Tensor, generator: Generator) -> Tensor:
        wanted = self.concept[index]

        def loss(adv: Tensor) -> Tensor:
            return self.metric(self.student.encode(*place(adv)), wanted)

        return self.settings.attack(loss, start, generator=generator)

    def _added_to(self, generator: Generator) -> Pulled:
        """Put one to ``additions`` tokens into prompts, each with equal chance in front, behind or anywhere."""
        n, device = self.settings.additions_batch, self.ids.device
        own = self.shard.part(n)
        index = self._drawn(n, generator)
        embeds, ids = self.embeds[index], self.ids[index]
        for _ in range(int(torch.randint(1, self.settings.additions + 1, (1,), generator=generator))):
            drawn = torch.randint(len(self.added), (n, 1), generator=generator)[own].to(device)
            where, share = torch.rand(2, n, generator=generator)[:, own].to(device)
            lengths = prompt_lengths(ids, self._eos)
            anywhere = (share * (lengths + 1)).long()
            after = torch.where(where < 1 / 3, 0, torch.where(where < 2 / 3, lengths, anywhere))
            token = self.added[drawn]
            embeds, ids = insert_tokens(embeds, ids, after, self.teacher.embed(token).detach(), adv_ids=token)
        return Pulled("additions", self.settings.additions_weight, n, embeds, ids, self.anchored[index])
