"""State of a gradient loop, and its checkpoints."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.errors import TrainingError

from ..distributed import Shard

logger = logging.getLogger(__name__)


class StepLoss(Protocol):
    """A loss to minimise, with its own state between iterations."""

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss () of one iteration, and its parts by name for the log.

        With several processes, each returns its share. The shares add up to the loss and its parts. A loss without a
        gradient leaves the parameters as they are in this iteration.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next iteration depends on, except parameters and generator."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        ...


@dataclass
class TrainingLog:
    """The losses of every iteration and the time of the loop, over all resumed parts of a run.

    Args:
        losses: Values of each part of the loss, by name, one for each iteration; NaN if the part was not computed.
        seconds: Wall time of the loop in seconds.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, iteration: int, parts: Mapping[str, float]) -> None:
        """Record the losses of one iteration."""
        for name in {*self.losses, *parts}:
            series = self.losses.setdefault(name, [])
            series.extend([math.nan] * (iteration - len(series)))
            series.append(parts.get(name, math.nan))

    def curves(self, points: int = 20) -> dict[str, list[float | None]]:
        """Return each loss as averages over at most ``points`` equal stretches of the run; None if not computed."""
        return {name: _averaged(series, points) for name, series in sorted(self.losses.items())}


def _averaged(series: list[float], points: int) -> list[float | None]:
    width = max(1, math.ceil(len(series) / points))
    chunks = [[v for v in series[i : i + width] if not math.isnan(v)] for i in range(0, len(series), width)]
    return [float(f"{sum(chunk) / len(chunk):.4g}") if chunk else None for chunk in chunks]


class TrainingState:
    """Everything that the next iteration depends on, except the generator.

    Args:
        parameters: Trained parameters, by name.
        loss: Loss to minimise.
        optimizer: Optimizer of the parameters.
        average: Decay per iteration of the parameters' exponential average, in [0, 1); 0 keeps no average.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        loss: StepLoss,
        *,
        optimizer: torch.optim.Optimizer,
        average: float,
    ) -> None:
        self.parameters, self.loss, self.decay = dict(parameters), loss, average
        self.optimizer = optimizer
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if average else {}
        self.log = TrainingLog()
        self.iteration = 0

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the parameters; faster at first, so that the first values lose their weight soon."""
        decay = min(self.decay, (1 + self.iteration) / (10 + self.iteration))
        for name, kept in self.average.items():
            kept.lerp_(self.parameters[name], 1 - decay)

    @torch.no_grad()
    def take_average(self) -> None:
        """Overwrite the parameters with their average, if one is kept."""
        for name, kept in self.average.items():
            self.parameters[name].copy_(kept)

    def tensors(self, generator: Generator) -> dict[str, Tensor]:
        """Return all tensors of the state by name, with the generator's state."""
        adam = self.optimizer.state_dict()["state"]
        names = list(self.parameters)
        return {
            **{f"student/{name}": p.detach() for name, p in self.parameters.items()},
            **{f"average/{name}": kept for name, kept in self.average.items()},
            **{f"adam/{names[i]}/{key}": value for i, state in adam.items() for key, value in state.items()},
            **{f"loss/{name}": tensor for name, tensor in self.loss.state().items()},
            "generator": generator.get_state(),
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], generator: Generator) -> None:
        """Restore the tensors of ``tensors``, and the generator's state."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"student/{name}"])
        for name, kept in self.average.items():
            kept.copy_(tensors[f"average/{name}"])
        state = {i: _under(tensors, f"adam/{name}/") for i, name in enumerate(self.parameters)}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.loss.load_state(_under(tensors, "loss/"))
        generator.set_state(tensors["generator"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save_checkpoint(
    state: TrainingState, generator: Generator, folder: Path, identity: str, shard: Shard | None = None
) -> None:
    """Write a checkpoint to a temporary folder, rename it, and then delete the older checkpoints.

    Temporary folders that a killed process left are deleted too. Every process must call this; the main one writes.
    """
    held = state.tensors(generator)
    if shard is not None and not shard.main:
        return
    final = folder / f"checkpoint-{state.iteration:08d}"
    for left in folder.glob(".checkpoint-*"):
        shutil.rmtree(left)
    aside = folder / f".{final.name}.{os.getpid()}"
    aside.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in held.items()}
    save_file(tensors, str(aside / "state.safetensors"), metadata={"format": "pt"})
    record = {"identity": identity, "losses": state.log.losses, "seconds": state.log.seconds}
    (aside / "state.json").write_text(json.dumps(record))
    if final.exists():
        shutil.rmtree(final)
    os.replace(aside, final)
    for older in _checkpoints(folder):
        if older != final:
            shutil.rmtree(older)


def load_checkpoint(state: TrainingState, generator: Generator, folder: Path, identity: str) -> None:
    """Load the newest checkpoint in ``folder``, if there is one.

    Raises:
        TrainingError: If the checkpoint belongs to another run.
    """
    found = _checkpoints(folder)
    if not found:
        return
    record: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
    if record["identity"] != identity:
        raise TrainingError(
            f"expected a checkpoint of this run ({identity}), found one of a run with other settings "
            f"({record['identity']}) in {found[-1]}: start over with --no-resume (in Python resume=False), choose "
            "another --out, or give the earlier settings to go on"
        )
    state.load(read_owned(found[-1] / "state.safetensors").tensors, generator)
    state.iteration = int(found[-1].name.rsplit("-", 1)[1])
    state.log = TrainingLog(record["losses"], record["seconds"])
    logger.info("resumed at iteration %d from %s", state.iteration, found[-1])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"))
