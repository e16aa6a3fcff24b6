"""Terms on prompts with the concept: the paper's term with its attack through the UNet, and terms on plain prompts.

A plain prompt is a prompt without adversarial tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..distributed import Shard
from ..losses import negative_guidance_target
from ..prompts.encoded import EncodedPrompts
from ..protocols import InnerAttack
from ..trajectories.bank import BankBatch
from .config import AdversaryConfig, UnlearnConfig
from .placement import TokenPlacement, TokenPlacements, placement_name
from .terms import Iteration, NoiseError, Points, TermRows, given_of, pulled, rows_of, targets_of


@dataclass
class PredictionAttack:
    """Inner attack through the UNet, AdvUnlearn (Zhang et al. 2024), equation 4.

    It looks for adversarial tokens with which the student predicts what the base predicts for the concept.

    Args:
        config: Start, points and placements of the adversarial tokens.
        attack: Rule of the attack steps.
        placements: Positions that the adversarial tokens may take.
        points: Training points on the prompts.
        errors: Error of the student's predictions.
        latest: Results of earlier attacks, by name: of the last one with K tokens (B, K, D) in this process, and of the
            last shared one in a placement (1, K, D), equal in all processes.
    """

    config: AdversaryConfig
    attack: InnerAttack
    placements: TokenPlacements
    points: Points
    errors: NoiseError
    latest: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, index: Tensor, points: BankBatch, *, generator: Generator) -> tuple[TokenPlacement, Tensor]:
        """Attack the prompts, and return the placement and the resulting adversarial embeddings (B, K, D).

        Args:
            index: Indices (n,) of the prompts in all processes.
            points: Training points of this process's part of the prompts.
            generator: Generator of all draws, equal in all processes.
        """
        placement = self.placements.draw(generator)
        own = points.prompt_index.to(self.placements.ids.device)
        given = None if self.placements.given is None else self.placements.given[own]
        shared = self.config.shared > 0 and float(torch.rand(1, generator=generator)) < self.config.shared

        def loss(adv: Tensor) -> Tensor:
            at = points
            if self.config.points == "fresh":
                at = self.points.sample(len(index), generator, index)[1]
            tokens = self._shard.spread(adv).expand(len(own), -1, -1) if shared else adv
            cond = self.errors.student.encode(*self.placements.put(placement, own, tokens), given)
            return self.errors([at], [at.pred_cond], cond)

        key, start = self._start(placement, len(index), generator, shared=shared)
        adv = self.attack(loss, start, generator=generator)
        if shared or self.config.start == "latest":
            self.latest[key] = adv
        return placement, adv.expand(len(own), -1, -1)

    def _start(self, placement: TokenPlacement, n: int, generator: Generator, *, shared: bool) -> tuple[str, Tensor]:
        """Return the attack's key in ``latest``, and its first embeddings: (B, K, D), or (1, K, D) if shared."""
        size = self.placements.size(placement)
        key = f"shared.{placement_name(placement)}" if shared else f"latest.{size}"
        start = self.latest.get(key) if shared or self.config.start == "latest" else None
        again = shared and start is not None and float(torch.rand(1, generator=generator)) < self.config.restart
        if start is None or again:
            start = self._random_tokens(1 if shared else n, size, generator, whole=shared)
        return key, start

    def _random_tokens(self, n: int, k: int, generator: Generator, *, whole: bool = False) -> Tensor:
        """Return the embeddings (B, K, D) of n rows of k random tokens: this process's part, or all if ``whole``."""
        teacher = self.errors.teacher
        drawn = torch.randint(teacher.text_encoder.config.vocab_size, (n, k), generator=generator)
        own = drawn[slice(None) if whole else self._shard.part(n)]
        return teacher.embed(own.to(teacher.device)).detach()

    @property
    def _shard(self) -> Shard:
        return self.points.shard

    def state(self) -> dict[str, Tensor]:
        """Return the results of the latest attacks of all processes, by name."""
        return {k: v if k.startswith("shared.") else self._shard.gathered(v) for k, v in self.latest.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        latest = {k: v for k, v in state.items() if k.startswith(("latest.", "shared."))}
        latest = {k: v if k.startswith("shared.") else v[self._shard.part(len(v))] for k, v in latest.items()}
        self.latest = {k: v.to(self.errors.teacher.device) for k, v in latest.items()}


@dataclass(frozen=True)
class Unlearn:
    """Term that trains the student to predict the negatively guided target on prompts with the concept.

    Without an attack it is ESD (Gandikota et al. 2023), equation 7. With one it is AdvUnlearn (Zhang et al. 2024),
    equation 5, where the prompts are attacked after the warm-up.

    Args:
        config: Batch size, target and negative guidance.
        prompts: Prompts with the concept.
        points: Training points on ``prompts``, or on the first of them if the bank has a limit.
        attack: Attack through the UNet; None for ESD.
    """

    name: ClassVar[str] = "unlearn"
    space: ClassVar[Literal["noise"]] = "noise"
    weight: ClassVar[float] = 1.0
    config: UnlearnConfig
    prompts: EncodedPrompts
    points: Points
    attack: PredictionAttack | None = None

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        index, points = self.points.sample(self.config.batch, iteration.generator)
        rows = rows_of(self.prompts, points.prompt_index)
        if self.attack is not None and iteration.attacked:
            placement, adv = self.attack(index, points, generator=iteration.generator)
            rows = self.attack.placements.put(placement, points.prompt_index, adv)
        target, given = prediction_target(self.config, points), given_of(self.prompts, points.prompt_index)
        return TermRows(len(index), *rows, target, points, given=given)

    def state(self) -> dict[str, Tensor]:
        """Return the results of the latest attacks."""
        return {} if self.attack is None else self.attack.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        if self.attack is not None:
            self.attack.load_state(state)


@dataclass(frozen=True)
class Pull:
    """Term that pulls the conditionings of the ``unlearn`` term's rows to those of the anchored prompts.

    Args:
        config: Weight of the term.
        prompts: Prompts with the concept, with their target conditionings.
    """

    name: ClassVar[str] = "pull"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    least: ClassVar[None] = None
    config: UnlearnConfig
    prompts: EncodedPrompts

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.pull_weight

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Return the rows of the ``unlearn`` term in this iteration, with conditionings as targets."""
        drawn = iteration.drawn.get(Unlearn.name)
        if drawn is None or drawn.points is None:
            return None
        target = targets_of(self.name, self.prompts, drawn.points.prompt_index)
        return TermRows(drawn.total, drawn.embeds, drawn.ids, target)


@dataclass(frozen=True)
class PlainPredictions:
    """Term that repeats the ``unlearn`` term on plain prompts after the warm-up.

    Args:
        config: Weight, batch size and target.
        prompts: Prompts with the concept.
        points: Training points on ``prompts``, or on the first of them if the bank has a limit.
    """

    name: ClassVar[str] = "plain"
    space: ClassVar[Literal["noise"]] = "noise"
    config: UnlearnConfig
    prompts: EncodedPrompts
    points: Points

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.plain_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.config.plain_batch

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Return this process's rows of one iteration; None during the warm-up."""
        if not iteration.attacked:
            return None
        index, points = self.points.sample(self.config.plain_batch, iteration.generator)
        target, given = prediction_target(self.config, points), given_of(self.prompts, points.prompt_index)
        return TermRows(len(index), *rows_of(self.prompts, points.prompt_index), target, points, given=given)


@dataclass(frozen=True)
class PlainConditionings:
    """Term that pulls the conditionings of plain prompts to those of the anchored prompts, without UNet calls.

    Args:
        config: Weight and batch size.
        prompts: Prompts with the concept, with their target conditionings.
        shard: Share of this process.
    """

    name: ClassVar[str] = "plain"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    least: ClassVar[None] = None
    config: UnlearnConfig
    prompts: EncodedPrompts
    shard: Shard = field(default_factory=Shard)

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.plain_weight

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        return pulled(self.name, self.prompts, self.config.plain_batch, iteration.generator, self.shard)


def prediction_target(config: UnlearnConfig, points: BankBatch) -> Tensor:
    """Return the student's target predictions (B, C, h, w) at points of prompts with the concept.

    Raises:
        ValueError: If the target is the anchor, and the points have no predictions for it.
    """
    base = points.pred_null if config.target == "negative_guidance" else points.pred_anchor
    if base is None:
        raise ValueError("expected points with anchor predictions, found none: open the source with anchors")
    return negative_guidance_target(base, points.pred_cond, config.eta)
