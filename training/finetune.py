"""The one gradient loop: Adam, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Generator, nn
from tqdm import tqdm

from .backbone import Precision
from .checkpoint import StepLoss, TrainingLog, TrainingState, load_checkpoint, save_checkpoint


@dataclass(frozen=True, kw_only=True)
class Training:
    """The gradient loop's settings. Defaults are AdvUnlearn's and ESD's.

    Args:
        iterations: Optimizer steps.
        rate: Adam's learning rate.
        schedule: ``cosine`` falls to zero at the end.
        clip: Largest norm of the whole gradient; None leaves it.
        average: Decay of an exponential average of the trained parameters, which is then the result; 0 takes the last.
        precision: Of the frozen UNet, forward and backward; the student is always trained in float32.
    """

    iterations: int = 1000
    rate: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float | None = None
    average: float = 0.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.rate <= 0 or not 0 <= self.average < 1:
            raise ValueError(f"expected iterations >= 1, rate > 0 and average in [0, 1), found {self}")

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of one iteration."""
        if self.schedule == "constant":
            return self.rate
        return self.rate * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a run keeps what it may go on from; nothing here changes its result.

    Args:
        folder: For checkpoints; None keeps none.
        cache_dir: Parent of the trajectory banks; None keeps them in memory.
        every: Iterations between checkpoints.
        resume: Go on from the newest checkpoint, if there is one.
        progress: Show progress bars.
    """

    folder: Path | None = None
    cache_dir: Path | None = None
    every: int = 50
    resume: bool = True
    progress: bool = True


def finetune(
    parameters: Mapping[str, nn.Parameter],
    loss: StepLoss,
    training: Training,
    *,
    generator: Generator,
    workspace: Workspace,
    identity: str,
) -> TrainingLog:
    """Train ``parameters`` in place on ``loss``.

    Args:
        parameters: What is trained, by name; float32.
        loss: Called once an iteration.
        training: Iterations, rates, averaging.
        generator: All randomness; its state is part of a checkpoint, so that a resumed run is bit-identical in float32.
        workspace: Checkpoints and progress.
        identity: Names the run; a checkpoint of another run is refused.

    Returns:
        The log. With ``training.average`` the parameters hold the average.

    Raises:
        RuntimeError: Several processes, a loss that is not finite, or a checkpoint of another run.
    """
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes > 1:
        raise RuntimeError(f"expected one process, found {accelerator.num_processes}: launch without --num_processes")
    run = TrainingState(parameters, loss, rate=training.rate, average=training.average)
    if workspace.folder is not None and workspace.resume:
        load_checkpoint(run, generator, workspace.folder, identity)
    started = time.monotonic() - run.log.seconds
    with tqdm(
        total=training.iterations, initial=run.iteration, desc="train", disable=not workspace.progress, mininterval=1
    ) as bar:
        while run.iteration < training.iterations:
            parts = _step(run, training, accelerator, generator)
            run.log.seconds = time.monotonic() - started
            bar.update()
            bar.set_postfix({name: f"{value:.4f}" for name, value in parts.items()}, refresh=False)
            if workspace.folder is not None and run.iteration % workspace.every == 0:
                save_checkpoint(run, generator, workspace.folder, identity)
    run.take_average()
    return run.log


def _step(run: TrainingState, training: Training, accelerator: Accelerator, generator: Generator) -> dict[str, float]:
    for group in run.optimizer.param_groups:
        group["lr"] = training.rate_at(run.iteration)
    run.optimizer.zero_grad(set_to_none=True)
    total, parts = run.loss(run.iteration, generator)
    if not bool(torch.isfinite(total)):
        raise RuntimeError(
            f"expected a finite loss, found {parts} at iteration {run.iteration}: lower the rate or the weights"
        )
    accelerator.backward(total)
    if training.clip is not None:
        accelerator.clip_grad_norm_(run.parameters.values(), training.clip)
    run.optimizer.step()
    run.log.add(run.iteration, parts)
    run.update_average()
    run.iteration += 1
    return parts
