"""The training loop of the base's parts, with a seed for each step, averaged weights, checkpoints and exact resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from robust_encoders.artifact.owned_file import read_owned

from ...progress import ProgressBar
from .optimizers import Optimizers

Loss = Callable[[Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Training schedule of one part of the base.

    Args:
        steps: Number of optimizer steps.
        rate: Peak learning rate of AdamW, after 100 steps of warm-up; then it falls to zero by a cosine.
        decay: Decay of the averaged weights per step.
        every: Number of steps between checkpoints.
        restart: Step of a warm restart at half the rate (Loshchilov and Hutter 2017), after a first cosine to zero; 0
            has no restart.
        matrix_rate: Peak learning rate of Muon, which steps the matrices of the hidden layers; 0 leaves all to AdamW.
    """

    steps: int
    rate: float
    decay: float = 0.998
    every: int = 200
    restart: int = 0
    matrix_rate: float = 0.0

    def rate_at(self, step: int, first: int = 0) -> float:
        """Return the learning rate of a step: 100 steps of warm-up, then a cosine, in one cycle or in two.

        Args:
            step: Number of the step.
            first: First step of a part of the schedule, which warms up again.
        """
        start, end, peak = 0, self.restart or self.steps, self.rate
        if self.restart and step >= self.restart:
            start, end, peak = self.restart, self.steps, self.rate / 2
        warmth = min(1.0, (step - max(start, first) + 1) / 100)
        return peak * warmth * (0.5 + 0.5 * math.cos(math.pi * (step - start) / (end - start)))


def fit(
    module: nn.Module,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    label: str,
    span: tuple[int, int] | None = None,
) -> float:
    """Train ``module`` in place, leave the averaged weights in it, and return the mean loss of the last 100 steps.

    The generator of every step is seeded only by ``seed`` and the step's number. A run that was stopped and continued
    from its checkpoint therefore gives the same weights as an uninterrupted run.

    A span trains a part of the schedule. It begins at the weights that the module has, with new moments and a warm-up.

    Args:
        module: Module to train.
        loss: Function that returns the loss () of one step from a generator.
        schedule: Steps, learning rate and checkpoints.
        folder: Folder of the checkpoints.
        seed: Seed of the run.
        label: Name of the run in the progress bar.
        span: First step of the part, and the step after its last; None runs the whole schedule.
    """
    first, end = span or (0, schedule.steps)
    state = _State.load(module, schedule, folder, first)
    module.train()
    with ProgressBar(desc=label, initial=state.step, total=end) as bar:
        for step in range(state.step, end):
            value = loss(Generator().manual_seed(seed * 1_000_003 + step))
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            rate = schedule.rate_at(step, first)
            state.optimizers.step(rate, rate / schedule.rate * schedule.matrix_rate)
            state.after(step, value.item(), min(schedule.decay, (step - first + 1) / (step - first + 10)))
            bar.update()
            bar.set_postfix(loss=f"{state.recent():.4f}")
            if state.step % schedule.every == 0:
                state.save(folder)
    state.save(folder)
    module.load_state_dict({**module.state_dict(), **state.average})
    module.eval()
    return state.recent()


class _State:
    """Everything that a resumed run needs: weights, optimizer moments, averaged weights, step and recent losses."""

    def __init__(self, module: nn.Module, schedule: Schedule, first: int) -> None:
        self.module = module
        self.named = dict(module.named_parameters())
        self.optimizers = Optimizers(self.named, matrices=schedule.matrix_rate > 0)
        self.average = {name: p.detach().clone() for name, p in self.named.items()}
        self.step = first
        self.losses: list[float] = []

    @classmethod
    def load(cls, module: nn.Module, schedule: Schedule, folder: Path, first: int) -> _State:
        state, record = cls(module, schedule, first), folder / "checkpoint.json"
        if not record.exists():
            return state
        saved = json.loads(record.read_text())
        tensors = read_owned(folder / saved["file"]).tensors
        with torch.no_grad():
            for name, parameter in state.named.items():
                parameter.copy_(tensors[f"weights.{name}"])
                state.average[name].copy_(tensors[f"average.{name}"])
        state.optimizers.load(tensors)
        state.step, state.losses = saved["step"], saved["losses"]
        return state

    def after(self, step: int, loss: float, decay: float) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                self.average[name].lerp_(parameter, 1 - decay)
        self.step = step + 1
        self.losses = [*self.losses[-99:], loss]

    def recent(self) -> float:
        return sum(self.losses) / max(1, len(self.losses))

    def save(self, folder: Path) -> None:
        """Write the tensors to a new file, then point the record to it; an interrupted save changes nothing."""
        tensors = {f"weights.{name}": p.detach() for name, p in self.named.items()}
        tensors |= {f"average.{name}": p for name, p in self.average.items()}
        tensors |= self.optimizers.tensors()
        folder.mkdir(parents=True, exist_ok=True)
        file = f"checkpoint-{self.step}.safetensors"
        save_file(tensors, folder / file)
        aside = folder / "checkpoint.json.tmp"
        aside.write_text(json.dumps({"file": file, "step": self.step, "losses": self.losses}))
        os.replace(aside, folder / "checkpoint.json")
        for old in folder.glob("checkpoint-*.safetensors"):
            if old.name != file:
                old.unlink()
