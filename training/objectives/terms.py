"""Loss terms, and the objective that adds them up.

A row is one prompt of one iteration. Several processes share the rows of an iteration: a batch size counts the rows of
all processes, (B, ...) is the part of one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..diffusion.memory import in_pieces
from ..distributed import Shard
from ..losses import ConditioningMetric, squared_error, weighted_sum
from ..prompts.encoded import EncodedPrompts
from ..trainer.surgery import LossPair
from ..trajectories.bank import BankBatch, TrajectoryBank, draw
from ..trajectories.resample import FreshTrajectories, sample_part


class TermRows(NamedTuple):
    """Rows of one term in one iteration: token embeddings, targets, and the points where predictions are compared.

    Args:
        total: Number of rows in all processes.
        embeds: Token embeddings (B, L, D) of this process's rows.
        ids: Token ids (B, L) of this process's rows.
        target: Target predictions (B, C, h, w) if there are points, otherwise target conditionings (B, L, D).
        points: Training points of a term on predictions; None for a term on conditionings.
        cond: Conditionings (B, L, D) that the UNet gets instead of the student's encoding of the token embeddings; None
            encodes these.
        given: Part of the conditionings that other text encoders give, see ``Backbone.given``; None without such
            encoders.
        compared: True (B, L) at the positions where conditionings are compared; None compares all.
    """

    total: int
    embeds: Tensor
    ids: Tensor
    target: Tensor
    points: BankBatch | None = None
    cond: Tensor | None = None
    given: Tensor | None = None
    compared: Tensor | None = None

    def seen(self, cond: Tensor) -> Tensor:
        """Return the student's conditionings (B, L, D) with the target at the positions that are not compared."""
        return cond if self.compared is None else torch.where(self.compared[..., None], cond, self.target)


@dataclass(frozen=True)
class Iteration:
    """State of one iteration that its terms read.

    Args:
        generator: Generator of all draws, equal in all processes.
        attacked: True if the warm-up is over and prompts are attacked.
        drawn: Rows of the earlier terms of this iteration, by term name.
    """

    generator: Generator
    attacked: bool
    drawn: dict[str, TermRows] = field(default_factory=dict)


class LossTerm(Protocol):
    """One summand of an objective."""

    @property
    def name(self) -> str:
        """Name of the term's loss curve in the log."""
        ...

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        ...

    @property
    def space(self) -> Literal["noise", "conditioning"]:
        """Space in which the student is compared with the target."""
        ...

    @property
    def least(self) -> int | None:
        """Number of rows per iteration in all processes, at least one for each; None if a process may have no row."""
        ...

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Return this process's rows of one iteration, or None if the iteration goes without this term."""
        ...


@runtime_checkable
class StatefulTerm(Protocol):
    """A term whose next iteration depends on the one before."""

    def state(self) -> dict[str, Tensor]:
        """Return the carried tensors of all processes, by name."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``; other entries are ignored."""
        ...


@runtime_checkable
class PreservingTerm(Protocol):
    """A term that keeps what the frozen model does; every other term erases. Gradient surgery tells them apart."""

    preserves: ClassVar[Literal[True]]


@dataclass(frozen=True)
class Points:
    """Training points of a list of prompts, shared among processes.

    A training point is a latent at a timestep, with the base's predictions there.

    Args:
        source: Bank of trajectories, or fresh trajectories.
        shard: Share of this process.
    """

    source: TrajectoryBank | FreshTrajectories
    shard: Shard = field(default_factory=Shard)

    def sample(self, n: int, generator: Generator, index: Tensor | None = None) -> tuple[Tensor, BankBatch]:
        """Draw n points, and return the prompts' indices (n,) of all processes and the points of this process.

        Args:
            n: Number of points in all processes.
            generator: Generator of the draw, equal in all processes.
            index: Indices (n,) of the prompts; None draws them.
        """
        index = draw(len(self.source.prompts), n, generator) if index is None else index
        if self.shard.count == 1:
            return index, self.source.sample(n, generator, prompt_index=index)
        return index, sample_part(self.source, index, generator, self.shard.part(n))


@dataclass(frozen=True)
class NoiseError:
    """Squared error of the student's predictions at training points.

    Args:
        teacher: Frozen base, whose ``unet_calls`` counts the UNet calls of the training.
        student: Base with the text encoder in training; its UNet makes the predictions.
        micro_batch: Largest number of latents in the UNet at once; None takes all at once.
    """

    teacher: Backbone
    student: Backbone
    micro_batch: int | None = None

    def __call__(self, points: Sequence[BankBatch], targets: Sequence[Tensor], cond: Tensor) -> Tensor:
        """Return the squared error (B,) at each point, predicted with the conditionings ``cond`` (B, L, D)."""
        latents = torch.cat([p.latents for p in points])
        t, target = torch.cat([p.t for p in points]), torch.cat([*targets])
        self.teacher.unet_calls += 2 * len(latents)  # one forward and one backward pass

        def error(rows: slice, part: Tensor) -> Tensor:
            return squared_error(self.student.predict(latents[rows], t[rows], part), target[rows])

        return error(slice(None), cond) if self.micro_batch is None else in_pieces(error, cond, self.micro_batch)


@dataclass
class Objective:
    """Loss of one training iteration, as a weighted sum of loss terms.

    The rows of all noise terms go through the UNet in one batch, or in pieces of ``micro_batch`` with the same sum. All
    rows go through the student's text encoder in one batch. Several processes share the batches of the settings. Each
    process draws all rows from an equal generator and takes its own part. Their losses add up to the loss that one
    process would compute.

    Args:
        terms: Loss terms in the order in which they draw.
        errors: Error of predictions, with the student to train.
        metric: Distance between conditionings; None if no term compares conditionings.
        warmup: Number of first iterations without an attack; None never attacks.
        shard: Share of this process.

    Raises:
        ValueError: If a term has fewer rows than there are processes.
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
        """The base with the text encoder in training."""
        return self.errors.student

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of one iteration's loss (), and of each term's mean loss by name."""
        drawn = self._drawn(iteration, generator)
        return self._weighted(self._losses(drawn), drawn)

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        """Return the loss of all erasing terms and the loss of all preserving terms, see ``PreservingTerm``.

        Both come from one batch. If both have points, the second backward pass goes through the UNet again.
        """
        drawn = self._drawn(iteration, generator)
        losses = self._losses(drawn)
        kept = {term.name for term in self.terms if isinstance(term, PreservingTerm)}
        groups = [{n: loss for n, loss in losses.items() if (n in kept) == wanted} for wanted in (False, True)]
        (erase, parts), (preserve, others) = (self._weighted(group, drawn) for group in groups)
        twice = self.errors.micro_batch is None  # pieces have their gradients already
        if twice and all(any(drawn[name].points is not None for name in group) for group in groups):
            self.teacher.unet_calls += sum(len(rows.points.t) for rows in drawn.values() if rows.points is not None)
        return LossPair(erase, preserve, {name: {**parts, **others}[name] for name in losses})

    def _drawn(self, iteration: int, generator: Generator) -> dict[str, TermRows]:
        at = Iteration(generator, self.warmup is not None and iteration >= self.warmup)
        for term in self.terms:
            rows = term.rows(at)
            if rows is not None:
                at.drawn[term.name] = rows
        return at.drawn

    def _weighted(
        self, losses: Mapping[str, tuple[float, Tensor]], drawn: Mapping[str, TermRows]
    ) -> tuple[Tensor, dict[str, float]]:
        if not losses:
            return torch.zeros((), device=self.teacher.device), {}
        return weighted_sum(losses, {n: drawn[n].total for n in losses} if self.shard.count > 1 else None)

    def _losses(self, drawn: Mapping[str, TermRows]) -> dict[str, tuple[float, Tensor]]:
        """Encode the rows of all terms together, predict those with points, and return weight and losses (B,)."""
        weights = {term.name: term.weight for term in self.terms}
        parts = self._conditionings(drawn)
        losses = {
            name: (weights[name], self.metric(rows.seen(parts[name]), rows.target))
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
        return losses

    def _conditionings(self, drawn: Mapping[str, TermRows]) -> dict[str, Tensor]:
        """Return the conditionings (B, L, D) of each term's rows; those that are not given are encoded together."""
        given = {name: rows.cond for name, rows in drawn.items() if rows.cond is not None}
        others = {name: rows for name, rows in drawn.items() if rows.cond is None}
        if not others:
            return given
        parts = [rows.given for rows in others.values() if rows.given is not None]
        encoded = self.student.encode(
            torch.cat([rows.embeds for rows in others.values()]),
            torch.cat([rows.ids for rows in others.values()]),
            torch.cat(parts) if parts else None,
        )
        sizes = [len(rows.ids) for rows in others.values()]
        return given | dict(zip(others, torch.split(encoded, sizes), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the terms carry on, and the number of UNet calls of all processes."""
        calls = self.shard.total(torch.tensor(self.teacher.unet_calls, device=self.teacher.device))
        carried = {k: v for term in self.terms if isinstance(term, StatefulTerm) for k, v in term.state().items()}
        return {**carried, "unet_calls": calls}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``; only the main process takes the number of UNet calls."""
        self.teacher.unet_calls = int(state["unet_calls"]) if self.shard.main else 0
        for term in self.terms:
            if isinstance(term, StatefulTerm):
                term.load_state(state)


def rows_of(prompts: EncodedPrompts, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return token embeddings (B, L, D) and ids (B, L) of prompts ``index`` (B,)."""
    at = index.to(prompts.ids.device)
    return prompts.embeds[at], prompts.ids[at]


def given_of(prompts: EncodedPrompts, index: Tensor) -> Tensor | None:
    """Return what other text encoders give for prompts ``index`` (B,), see ``Backbone.given``; None without them."""
    return None if prompts.given is None else prompts.given[index.to(prompts.given.device)]


def targets_of(name: str, prompts: EncodedPrompts, index: Tensor) -> Tensor:
    """Return the target conditionings (B, L, D) of prompts ``index`` (B,).

    Raises:
        ValueError: If the prompts have no targets.
    """
    if prompts.targets is None:
        raise ValueError(f"expected target conditionings for the term {name!r}, found none")
    return prompts.targets[index.to(prompts.targets.device)]


def pulled(name: str, prompts: EncodedPrompts, n: int, generator: Generator, shard: Shard) -> TermRows:
    """Draw n different prompts, or all if there are fewer, and return the rows that pull them to their targets."""
    index = torch.randperm(len(prompts.texts), generator=generator)[:n]
    own = index[shard.part(len(index))]
    return TermRows(len(index), *rows_of(prompts, own), targets_of(name, prompts, own))
