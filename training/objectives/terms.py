"""Loss terms, and the objective that is a list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..diffusion.memory import in_pieces
from ..distributed import Shard
from ..losses import ConditioningMetric, squared_error, weighted_sum
from ..prompts.encoded import EncodedPrompts
from ..trajectories.bank import BankBatch, TrajectoryBank, draw
from ..trajectories.resample import FreshTrajectories, sample_part


class TermRows(NamedTuple):
    """Rows of one term in one iteration: token embeddings, the target, and the points where it is compared.

    Args:
        total: Rows in all processes.
        embeds: Token embeddings (B, L, D) of this process's part.
        ids: Token ids (B, L).
        target: Prediction (B, C, h, w) where there are points, else conditioning (B, L, D).
        points: Training points of a term in the space of predictions; None compares conditionings.
    """

    total: int
    embeds: Tensor
    ids: Tensor
    target: Tensor
    points: BankBatch | None = None


@dataclass(frozen=True)
class Iteration:
    """One iteration as its terms see it.

    Args:
        generator: Draws for all processes.
        attacked: Whether the warm-up is over.
        drawn: Rows of the terms before, by name.
    """

    generator: Generator
    attacked: bool
    drawn: dict[str, TermRows] = field(default_factory=dict)


class LossTerm(Protocol):
    """One summand of an objective."""

    @property
    def name(self) -> str:
        """Name of its curve in the log."""
        ...

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        ...

    @property
    def space(self) -> Literal["noise", "conditioning"]:
        """Space in which rows and target are compared."""
        ...

    @property
    def least(self) -> int | None:
        """Rows per iteration in all processes, of which each process needs one; None where it does without."""
        ...

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Return this process's rows of one iteration; None leaves the term out of it."""
        ...


@runtime_checkable
class StatefulTerm(Protocol):
    """A term that carries something from iteration to iteration."""

    def state(self) -> dict[str, Tensor]:
        """Return it, of all processes."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned; other entries may be there."""
        ...


@dataclass(frozen=True)
class Points:
    """Training points of a list of prompts, shared out among processes.

    Args:
        source: Bank or fresh trajectories.
        shard: Share of this process.
    """

    source: TrajectoryBank | FreshTrajectories
    shard: Shard = field(default_factory=Shard)

    def sample(self, n: int, generator: Generator, index: Tensor | None = None) -> tuple[Tensor, BankBatch]:
        """Return the prompts (n,) of all processes, drawn unless given, and the points of this one's part of them."""
        index = draw(len(self.source.prompts), n, generator) if index is None else index
        if self.shard.count == 1:
            return index, self.source.sample(n, generator, prompt_index=index)
        return index, sample_part(self.source, index, generator, self.shard.part(n))


@dataclass(frozen=True)
class NoiseError:
    """Squared error of the student's predictions at training points.

    Args:
        teacher: Frozen base; its counter counts.
        student: Text encoder under training, with the UNet that predicts.
        micro_batch: Most latents that go through the UNet at once; None takes all.
    """

    teacher: Backbone
    student: Backbone
    micro_batch: int | None = None

    def __call__(self, points: Sequence[BankBatch], targets: Sequence[Tensor], cond: Tensor) -> Tensor:
        """Return the error (B,) at each of the points with its conditioning (B, L, D)."""
        latents = torch.cat([p.latents for p in points])
        t, target = torch.cat([p.t for p in points]), torch.cat([*targets])
        self.teacher.unet_calls += 2 * len(latents)  # there and back

        def error(rows: slice, part: Tensor) -> Tensor:
            return squared_error(self.student.predict(latents[rows], t[rows], part), target[rows])

        return error(slice(None), cond) if self.micro_batch is None else in_pieces(error, cond, self.micro_batch)


@dataclass
class Objective:
    """One iteration of training, as a list of loss terms.

    Every noise term of an iteration goes through the UNet in one batch, or in pieces of ``micro_batch`` with the same
    sum; every prompt goes through the student in one. Several processes share the batches that the settings ask for:
    all draw all of it from equal generators, each takes its own rows, and their losses add up to one process's.

    Args:
        terms: Terms in the order in which they draw.
        errors: Error of predictions; its student is trained.
        metric: Distance of conditionings; None without terms on them.
        warmup: First iterations, without attack; None never attacks.
        shard: Share of this process.

    Raises:
        ValueError: A term with fewer rows than processes.
    """

    terms: Sequence[LossTerm]
    errors: NoiseError
    metric: ConditioningMetric | None = None
    warmup: int | None = None
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        batches = {term.name: term.least for term in self.terms if term.least is not None}
        if min(batches.values(), default=self.shard.count) < self.shard.count:
            raise ValueError(
                f"expected at least one row in every noise and hardening term for each of {self.shard.count} "
                f"processes, found {batches}: choose larger batches or launch fewer processes"
            )

    @property
    def teacher(self) -> Backbone:
        """The frozen base."""
        return self.errors.teacher

    @property
    def student(self) -> Backbone:
        """The base with the text encoder under training."""
        return self.errors.student

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of the loss () of one iteration and of the mean of each term."""
        at = Iteration(generator, self.warmup is not None and iteration >= self.warmup)
        for term in self.terms:
            rows = term.rows(at)
            if rows is not None:
                at.drawn[term.name] = rows
        return self._evaluate(at.drawn)

    def _evaluate(self, drawn: Mapping[str, TermRows]) -> tuple[Tensor, dict[str, float]]:
        """Encode and predict all terms together, then weigh their losses."""
        weights = {term.name: term.weight for term in self.terms}
        encoded = self.student.encode(
            torch.cat([rows.embeds for rows in drawn.values()]), torch.cat([rows.ids for rows in drawn.values()])
        )
        parts = dict(zip(drawn, torch.split(encoded, [len(rows.ids) for rows in drawn.values()]), strict=True))
        losses = {
            name: (weights[name], self.metric(parts[name], rows.target))
            for name, rows in drawn.items()
            if rows.points is None and self.metric is not None
        }
        seen = {name: rows.points for name, rows in drawn.items() if rows.points is not None}
        if seen:
            cond = torch.cat([parts[name] for name in seen])
            errors = self.errors([*seen.values()], [drawn[name].target for name in seen], cond)
            sizes = [len(points.t) for points in seen.values()]
            for name, error in zip(seen, torch.split(errors, sizes), strict=True):
                losses[name] = (weights[name], error)
        return weighted_sum(losses, {n: r.total for n, r in drawn.items()} if self.shard.count > 1 else None)

    def state(self) -> dict[str, Tensor]:
        """Return what the terms carry on, and the UNet calls of all processes."""
        calls = self.shard.total(torch.tensor(self.teacher.unet_calls, device=self.teacher.device))
        carried = {k: v for term in self.terms if isinstance(term, StatefulTerm) for k, v in term.state().items()}
        return {**carried, "unet_calls": calls}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned, the calls in the main process alone."""
        self.teacher.unet_calls = int(state["unet_calls"]) if self.shard.main else 0
        for term in self.terms:
            if isinstance(term, StatefulTerm):
                term.load_state(state)


def rows_of(prompts: EncodedPrompts, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return token embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,)."""
    at = index.to(prompts.ids.device)
    return prompts.embeds[at], prompts.ids[at]


def targets_of(name: str, prompts: EncodedPrompts, index: Tensor) -> Tensor:
    """Return the target conditionings (B, L, D) of prompts ``index`` (B,).

    Raises:
        ValueError: They have none.
    """
    if prompts.targets is None:
        raise ValueError(f"expected target conditionings for the term {name!r}, found none")
    return prompts.targets[index.to(prompts.targets.device)]


def pulled(name: str, prompts: EncodedPrompts, n: int, generator: Generator, shard: Shard) -> TermRows:
    """Draw n prompts without replacement where there are enough, to be pulled to their targets."""
    index = torch.randperm(len(prompts.texts), generator=generator)[:n]
    own = index[shard.part(len(index))]
    return TermRows(len(index), *rows_of(prompts, own), targets_of(name, prompts, own))
