"""Terms on conditionings that harden an encoder beyond the paper's attack, without UNet calls."""

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
    """Term that pulls attacked prompts with the concept to the anchored conditionings.

    The attack lowers the distance to the base's conditioning of the plain prompt. It is a cheap surrogate for the
    attack through the UNet. It misses every other conditioning that draws the concept, so it is used for training only
    and never to measure robustness.

    Args:
        prompts: Prompts with the concept.
        placements: Positions that the adversarial tokens may take.
        attack: Rule of the attack steps; None never attacks.
    """

    name: ClassVar[str] = "attacked"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts
    placements: TokenPlacements
    attack: InnerAttack | None = None

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.prompts.config.weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.prompts.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration; during the warm-up the prompts are not attacked."""
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
        """Return embeddings (B, K, D) of this process's part of n rows of k random tokens, special tokens included."""
        p = self.prompts
        vocabulary = p.teacher.text_encoder.config.vocab_size
        drawn = torch.randint(vocabulary, (n, k), generator=generator)[p.shard.part(n)]
        return p.teacher.embed(drawn.to(p.ids.device)).detach()

    def attacked(
        self, attack: InnerAttack, placement: TokenPlacement, index: Tensor, start: Tensor, *, generator: Generator
    ) -> Tensor:
        """Return embeddings (B, K, D) that bring the student's conditionings of prompts ``index`` (B,) near the base's.

        Args:
            attack: Rule of the attack steps.
            placement: Position of the adversarial tokens.
            index: Indices (B,) of the prompts.
            start: Embeddings (B, K, D) that the attack begins at.
            generator: Generator for the attack.
        """
        wanted = self.prompts.concept[index]

        def loss(adv: Tensor) -> Tensor:
            cond = self.prompts.student.encode(*self.placements.put(placement, index, adv))
            return self.prompts.metric(cond, wanted)

        return attack(loss, start, generator=generator)


@dataclass(frozen=True)
class Additions:
    """Term that pulls prompts with the concept and added tokens to the anchored conditionings.

    It makes ``candidates`` times as many prompts as it needs, and keeps those farthest from their targets.

    Args:
        prompts: Prompts with the concept.
    """

    name: ClassVar[str] = "additions"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.prompts.config.additions_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
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
    """Term that keeps the base's conditionings of neighbouring prompts.

    Half of its rows are prompts with a random token in place of the concept's words, half are retain prompts. Both may
    get added tokens.

    Args:
        prompts: Prompts with the concept.
    """

    name: ClassVar[str] = "neighbours"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    prompts: ConceptPrompts

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.prompts.config.neighbours_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration of each half."""
        return max(self.prompts.config.neighbours_batch // 2, 1)

    @torch.no_grad()
    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        p, n, generator = self.prompts, self.prompts.config.neighbours_batch, iteration.generator
        replaced = p.add_tokens(p.replace(n - n // 2, generator), n - n // 2, generator, least=0, kept=True)
        retained = p.add_tokens(p.retain(n // 2, generator), n // 2, generator, least=0, kept=True)
        embeds, ids = (torch.cat(pair) for pair in zip(replaced, retained, strict=True))
        return TermRows(n, embeds, ids, p.teacher.encode(embeds, ids))
