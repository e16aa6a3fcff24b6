"""Running the trajectories of a bank: in batches across prompts, in parallel with other processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..progress import ProgressBar, announce, duration, passed
from .agreement import require_agreement
from .store import BankError, BankStore, StoredTrajectory, digest

if TYPE_CHECKING:
    from .config import BankConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectory:
    """One trajectory to run, which becomes one shard of the bank.

    Args:
        prompt: Prompt of the trajectory.
        anchor: Anchor whose predictions are stored as well; None stores none.
        seed: Number of the trajectory among those of its prompt, from 0; it seeds the initial noise.
    """

    prompt: str
    anchor: str | None
    seed: int

    @cached_property
    def name(self) -> str:
        """Name of the trajectory's file, without its extension."""
        return digest([self.prompt, self.anchor, self.seed])[:24]


def start_noise(backbone: Backbone, prompt: str, seed: int) -> Tensor:
    """Return the initial latent (C, h, w) of one trajectory, which depends only on prompt and seed."""
    generator = Generator().manual_seed(int(digest([prompt, seed])[:15], 16))
    return torch.randn(backbone.latent_shape, generator=generator)


class _Rollouts:
    """A runner of trajectories of the frozen model, in batches."""

    def __init__(self, backbone: Backbone, settings: BankConfig) -> None:
        self.backbone, self.settings = backbone, settings
        self.null = backbone.null()

    def run(self, jobs: Sequence[Trajectory], after_step: Callable[[int], object]) -> list[StoredTrajectory]:
        """Run trajectories together; after every step, their number is passed to ``after_step``."""
        backbone, s = self.backbone, self.settings
        # Latents are in float32 for every dtype of the UNet: the steps of a run are too small for bfloat16.
        noise = torch.stack([start_noise(backbone, job.prompt, job.seed) for job in jobs]).half().float()
        cond = backbone.condition([job.prompt for job in jobs])
        anchors = [job.anchor for job in jobs if job.anchor is not None]
        anchor = backbone.condition(anchors) if anchors else None
        whole: dict[str, Tensor] = {}
        run = backbone.rollout(cond, self.null, noise=noise.to(backbone.device), steps=s.steps, guidance=s.guidance)
        for k, step in enumerate(run):
            assert step.pred_null is not None
            row = {"latents": step.latents, "pred_null": step.pred_null, "pred_cond": step.pred_cond}
            if anchor is not None:
                row["pred_anchor"] = backbone.predict(step.latents, step.t, anchor)
            for name, tensor in {**{name: halved(tensor) for name, tensor in row.items()}, "t": step.t.cpu()}.items():
                # Allocate once for all steps: a full batch takes gigabytes, and a list with its stack twice as much.
                whole.setdefault(name, tensor.new_empty(len(jobs), s.steps, *tensor.shape[1:]))[:, k] = tensor
            # The run continues from the rounded latent, so that stored predictions belong exactly to stored latents.
            step.next.copy_(step.next.half())
            after_step(len(jobs))
        return [{name: tensor[i] for name, tensor in whole.items()} for i in range(len(jobs))]


def run_in_memory(
    backbone: Backbone, jobs: Sequence[Trajectory], settings: BankConfig, progress: bool
) -> dict[Trajectory, StoredTrajectory]:
    """Run every trajectory once, in batches, and return the results."""
    todo, made = list(dict.fromkeys(jobs)), dict[Trajectory, StoredTrajectory]()
    require_agreement(backbone, todo[0].prompt, settings.guidance)
    roller = _Rollouts(backbone, settings)
    with _bar(backbone, todo, settings, progress) as bar:
        for start in range(0, len(todo), settings.batch):
            chunk = todo[start : start + settings.batch]
            made.update(zip(chunk, roller.run(chunk, bar.update), strict=True))
    return made


def fill(
    store: BankStore, backbone: Backbone, jobs: Sequence[Trajectory], settings: BankConfig, progress: bool
) -> None:
    """Run the trajectories that are not on disk, in batches.

    Trajectories that another process is running are left to it, unless that process dies.
    """
    todo = {job.name: job for job in jobs if not store.has(job.name)}
    total = len(todo)
    logger.info("trajectory bank %s: %d of %d trajectories to run", store.folder, len(todo), len(jobs))
    if not todo:
        return
    require_agreement(backbone, next(iter(todo.values())).prompt, settings.guidance)
    roller = _Rollouts(backbone, settings)
    with _bar(backbone, list(todo.values()), settings, progress) as bar:
        while todo:
            with store.claimed(list(todo), settings.batch) as mine:
                made = roller.run([todo[name] for name in mine], bar.update) if mine else []
                for name, shard in zip(mine, made, strict=True):
                    store.write(name, shard)
            if not mine:
                store.wait_for(next(iter(todo)))
            todo = {name: job for name, job in todo.items() if not store.has(name)}
            bar.n = (total - len(todo)) * settings.steps  # with those of other processes


def _bar(backbone: Backbone, jobs: Sequence[Trajectory], settings: BankConfig, progress: bool) -> ProgressBar:
    """Announce a bank, and return its bar, whose unit is one step of one trajectory."""
    steps = len(jobs) * settings.steps
    if progress:
        calls = sum(3 if job.anchor is not None else 2 for job in jobs) * settings.steps
        announce(
            f"bank: {len(jobs):,} trajectories of {settings.steps} steps, {calls:,} UNet calls, about "
            f"{duration(calls * seconds_of_call(backbone))}"
        )
    return ProgressBar(total=steps, desc="bank", unit="step", disable=not progress)


def seconds_of_call(backbone: Backbone, batch: int = 16) -> float:
    """Return the seconds of one UNet call on one latent, measured on one latent and, if that is fast, on a batch.

    Args:
        backbone: The base; its counter of UNet calls stays as it is.
        batch: Number of latents of the second measurement.
    """
    apart = backbone.sharing()  # it counts its own UNet calls

    def call(n: int) -> None:
        latents = torch.zeros((n, *apart.latent_shape), device=apart.device)
        apart.predict(latents, apart.timesteps(1)[0].expand(n), apart.condition([""]).expand(n, -1, -1)).sum().item()

    def seconds(n: int) -> float:
        start = time.monotonic()
        call(n)
        return passed(start)

    call(1)  # the first call makes buffers
    alone = seconds(1)
    return alone if alone > 1 else seconds(batch) / batch


def halved(tensor: Tensor) -> Tensor:
    """Return a tensor in half precision on the CPU.

    Raises:
        BankError: A value exceeds the range of half precision, or is not finite.
    """
    small = tensor.to("cpu", torch.float16)
    if not bool(torch.isfinite(small).all()):
        largest = float(tensor.abs().max())
        raise BankError(
            f"expected values in the range of half precision (at most 65504), found {largest}: the base produces no "
            "valid pictures with these settings; try --dtype float32, or a smaller --bank.guidance"
        )
    return small
