"""The gradient loop of all trained methods: Adam, several processes, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Generator, Tensor, nn

from robust_encoders.errors import TrainingError

from ..diffusion.backbone import Precision
from ..distributed import Shard
from ..progress import ProgressBar
from ..provenance import ADDED, EXTRA
from ..workspace import Workspace
from .bf16_adam import BFloat16Adam
from .checkpoint import StepLoss, TrainingLog, TrainingState, load_checkpoint, save_checkpoint
from .surgery import require_two_losses, set_gradients


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the gradient loop. Defaults are those of AdvUnlearn and ESD.

    Args:
        iterations: Number of optimizer steps.
        rate: Learning rate of Adam.
        schedule: Course of the learning rate. ``constant`` stays at ``rate``. ``cosine`` falls from ``rate`` to zero at
            the end.
        clip: Largest norm of the whole gradient; a larger gradient is scaled down to it. None does not limit it.
        average: Decay per iteration of an exponential average of the trained parameters, in [0, 1). The average is the
            result of the run; with 0, the last parameters are.
        precision: Precision of the frozen UNet, forward and backward. Trained parameters are always in float32.
            ``fp16`` uses loss scaling inside the UNet; if its activations overflow, the run stops with an error.
        weight_decay: Decoupled weight decay of AdamW (Loshchilov and Hutter 2019), as a factor of the rate; 0 is Adam.
        gradient_surgery: Removal of the part of the erasing gradient that opposes the preserving gradient. It is for
            methods of two losses; both gradients are applied afterwards. See ``trainer.surgery``.
        moments: Precision of Adam's two moments between steps. ``bf16`` takes half the memory, and the step itself
            stays in float32; see ``BFloat16Adam``.
    """

    iterations: int = 1000
    rate: float = 1e-5
    schedule: Literal["constant", "cosine"] = field(default="constant", metadata=EXTRA)
    clip: float | None = field(default=None, metadata=EXTRA)
    average: float = field(default=0.0, metadata=EXTRA)
    precision: Precision = "fp32"
    weight_decay: float = field(default=0.0, metadata=EXTRA | ADDED)
    gradient_surgery: bool = field(default=False, metadata=EXTRA | ADDED)
    moments: Literal["fp32", "bf16"] = field(default="fp32", metadata=EXTRA | ADDED)

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.rate <= 0 or not 0 <= self.average < 1 or self.weight_decay < 0:
            raise ValueError(
                f"expected iterations >= 1, rate > 0, average in [0, 1) and weight_decay >= 0, found {self}"
            )

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of one iteration."""
        if self.schedule == "constant":
            return self.rate
        return self.rate * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer of the parameters: Adam, or AdamW with weight decay."""
        if self.moments == "bf16":
            return BFloat16Adam(parameters, lr=self.rate, weight_decay=self.weight_decay)
        if not self.weight_decay:
            return torch.optim.Adam(parameters, lr=self.rate)
        return torch.optim.AdamW(parameters, lr=self.rate, weight_decay=self.weight_decay)


def finetune(
    parameters: Mapping[str, nn.Parameter],
    loss: StepLoss,
    training: TrainingConfig,
    *,
    generator: Generator,
    workspace: Workspace,
    identity: str,
) -> TrainingLog:
    """Train ``parameters`` in place on ``loss``.

    Under ``accelerate launch`` or ``torchrun``, the gradients of all processes are added up. Every process takes the
    same step, and the main one writes checkpoints.

    Args:
        parameters: Trained parameters in float32, by name.
        loss: Loss to minimise; it is called once per iteration.
        training: Iterations, learning rates and averaging.
        generator: Generator of all random draws. Checkpoints contain its state, so a resumed run is bit-identical in
            float32.
        workspace: Folder of checkpoints, the progress switch, and trackers.
        identity: Identity of the run, see :func:`run_identity`; a checkpoint of another run is refused.

    Returns:
        The log of losses and time. With ``training.average``, the parameters hold their average afterwards.

    Raises:
        ValueError: If gradient surgery is asked for and the method has one loss only.
        TrainingError: If a loss is not finite, if the checkpoint belongs to another run, or if the number of processes
            is not the launched one.
    """
    shard = Shard.current()
    if training.gradient_surgery:
        require_two_losses(loss)
    optimizer = training.optimizer(list(parameters.values()))
    run = TrainingState(parameters, loss, optimizer=optimizer, average=training.average)
    if workspace.folder is not None and workspace.resume:
        load_checkpoint(run, generator, workspace.folder, identity)
    started = time.monotonic() - run.log.seconds
    silent = not (workspace.progress and shard.main)
    accelerator = _accelerator(shard)
    with ProgressBar(total=training.iterations, initial=run.iteration, desc="train", disable=silent) as bar:
        while run.iteration < training.iterations:
            total, parts = _step(run, training, accelerator, generator, shard=shard)
            run.log.seconds = time.monotonic() - started
            bar.update()
            bar.set_postfix({name: f"{value:.4f}" for name, value in parts.items()}, refresh=False)
            if workspace.trackers is not None:
                rate = training.rate_at(run.iteration - 1)
                workspace.trackers.log(_metrics(total, parts, rate), run.iteration)
            if workspace.folder is not None and run.iteration % workspace.every == 0:
                save_checkpoint(run, generator, workspace.folder, identity, shard)
    run.take_average()
    return run.log


def _metrics(total: float, parts: Mapping[str, float], rate: float) -> dict[str, float]:
    """Return the metrics of one iteration by the names that trackers show."""
    return {"loss": total, **{f"loss_{name}": value for name, value in parts.items()}, "learning_rate": rate}


def _accelerator(shard: Shard) -> Accelerator:
    """Start accelerate on the launched processes."""
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes != shard.count:
        raise TrainingError(
            f"expected the {shard.count} processes of WORLD_SIZE, found {accelerator.num_processes}: "
            "start with accelerate launch or torchrun"
        )
    return accelerator


def _step(
    run: TrainingState, training: TrainingConfig, accelerator: Accelerator, generator: Generator, *, shard: Shard
) -> tuple[float, dict[str, float]]:
    """Take one optimizer step, and return the loss and its parts, over all processes."""
    for group in run.optimizer.param_groups:
        group["lr"] = training.rate_at(run.iteration)
    run.optimizer.zero_grad(set_to_none=True)
    if training.gradient_surgery:
        pair = require_two_losses(run.loss).pair(run.iteration, generator)
        total, parts = pair.erase + pair.preserve, pair.parts
        _require_finite(total, parts, run.iteration, training.rate)
        set_gradients(run.parameters, pair, accelerator, shard)
    else:
        total, parts = run.loss(run.iteration, generator)
        _require_finite(total, parts, run.iteration, training.rate)
        _backward(run, total, accelerator, shard)
    whole = float(total.detach())
    if shard.count > 1:
        whole, *values = _summed(run, [whole, *parts.values()], shard)
        parts = dict(zip(parts, values, strict=True))
    if training.clip is not None:
        accelerator.clip_grad_norm_(run.parameters.values(), training.clip)
    run.optimizer.step()
    run.log.add(run.iteration, parts)
    run.update_average()
    run.iteration += 1
    return whole, parts


def _require_finite(total: Tensor, parts: Mapping[str, float], iteration: int, rate: float) -> None:
    if not bool(torch.isfinite(total)):
        found = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        lower = min(rate / 10, TrainingConfig.rate)
        raise TrainingError(
            f"expected a finite loss, found {found} at iteration {iteration}: run the command again with a lower "
            f"learning rate, for example --train.rate {lower:g} (now {rate:g}), or lower weights, and with "
            "--no-resume; its trajectories are kept"
        )


def _backward(run: TrainingState, total: Tensor, accelerator: Accelerator, shard: Shard) -> None:
    """Set the gradients of all processes together; a loss without a gradient sets none."""
    if not total.requires_grad:
        return
    accelerator.backward(total)
    if shard.count > 1:
        for parameter in run.parameters.values():
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = shard.total(own)


def _summed(run: TrainingState, values: Sequence[float], shard: Shard) -> list[float]:
    """Return the sums of values over all processes."""
    device = next(iter(run.parameters.values())).device
    sums: list[float] = shard.total(torch.tensor(values, device=device)).tolist()
    return sums
