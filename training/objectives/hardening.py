"""Terms on conditionings that harden an encoder beyond the paper's attack, at no UNet call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..protocols import InnerAttack
from .placement import TokenPlacement, TokenPlacements
from .prompt_augmentation import ConceptPrompts
from .terms import Iteration, TermRows


@dataclass(frozen=True)
class AttackedConditionings:
    """Prompts with the concept, attacked, keep the anchored conditionings.

    The attack lowers the distance to the frozen conditioning of the prompt itself. It is a surrogate for the one
    through the UNet: cheap, and blind to what else would draw the concept, so no robustness is ever judged by it.

    Args:
        prompts: Prompts with the concept.
        placements: Where the tokens may stand.
        attack: Rule of the steps; None never attacks.
    """

    name: ClassVar[str] = "attacked"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts
    placements: TokenPlacements
    attack: InnerAttack | None = None

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        return self.prompts.config.weight

    @property
    def least(self) -> int:
        """Rows per iteration."""
        return self.prompts.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration; before the attack begins, the prompts as they are."""
        p, n, generator = self.prompts, self.prompts.config.batch, iteration.generator
        index = p.draw(n, generator)
        rows = p.embeds[index], p.ids[index]
        if self.attack is not None and iteration.attacked:
            placement = self.placements.draw(generator)
            start = self.random_tokens(n, self.placements.size(placement), generator)
            found = self.attacked(self.attack, placement, index, start, generator=generator)
            rows = self.placements.put(placement, index, found)
        return TermRows(n, *rows, p.targets[index])

    def random_tokens(self, n: int, k: int, generator: Generator) -> Tensor:
        """Return the embeddings (B, K, D) of this process's part of n times k random tokens, specials included."""
        p = self.prompts
        vocabulary = p.teacher.text_encoder.config.vocab_size
        drawn = torch.randint(vocabulary, (n, k), generator=generator)[p.shard.part(n)]
        return p.teacher.embed(drawn.to(p.ids.device)).detach()

    def attacked(
        self, attack: InnerAttack, placement: TokenPlacement, index: Tensor, start: Tensor, *, generator: Generator
    ) -> Tensor:
        """Return tokens (B, K, D) that bring prompts ``index`` (B,) near their frozen conditionings."""
        wanted = self.prompts.concept[index]

        def loss(adv: Tensor) -> Tensor:
            cond = self.prompts.student.encode(*self.placements.put(placement, index, adv))
            return self.prompts.metric(cond, wanted)

        return attack(loss, start, generator=generator)


@dataclass(frozen=True)
class Additions:
    """Prompts with the concept and further words keep the anchored conditionings.

    Of several that are made for each, the farthest from their targets are kept.

    Args:
        prompts: Prompts with the concept.
    """

    name: ClassVar[str] = "additions"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        return self.prompts.config.additions_weight

    @property
    def least(self) -> int:
        """Rows per iteration."""
        return self.prompts.config.additions_batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        p, n = self.prompts, self.prompts.config.additions_batch
        index, embeds, ids = p.extend(n * p.config.candidates, iteration.generator)
        targets = p.targets[index]
        if p.config.candidates > 1:
            with torch.no_grad():
                far = p.metric(p.student.encode(embeds, ids), targets)
            own = p.shard.part(n)
            kept = far.topk(own.stop - own.start).indices
            embeds, ids, targets = embeds[kept], ids[kept], targets[kept]
        return TermRows(n, embeds, ids, targets)


@dataclass(frozen=True)
class KeptNeighbours:
    """Other tokens in the place of the concept's words, and retain prompts, half of each, keep their meaning.

    Args:
        prompts: Prompts with the concept.
    """

    name: ClassVar[str] = "neighbours"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        return self.prompts.config.neighbours_weight

    @property
    def least(self) -> int:
        """Rows per iteration of either half."""
        return max(self.prompts.config.neighbours_batch // 2, 1)

    @torch.no_grad()
    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        p, n, generator = self.prompts, self.prompts.config.neighbours_batch, iteration.generator
        replaced = p.add_tokens(p.replace(n - n // 2, generator), n - n // 2, generator, least=0, kept=True)
        retained = p.add_tokens(p.retain(n // 2, generator), n // 2, generator, least=0, kept=True)
        embeds, ids = (torch.cat(pair) for pair in zip(replaced, retained, strict=True))
        return TermRows(n, embeds, ids, p.teacher.encode(embeds, ids))
