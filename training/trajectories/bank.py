"""Latents and frozen-model predictions, computed once and drawn from at every training step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from robust_encoders.artifact.fingerprint import content_sha256

from ..diffusion.backbone import Backbone
from .config import BankConfig
from .rollout import Trajectory, fill, run_in_memory
from .store import BankStore, StoredTrajectory

FORMAT = 1
# What DDIM reads from its configuration beside the noise schedule itself.
SCHEDULE = (
    "num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample",
    "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
)  # fmt: skip


@dataclass(frozen=True)
class BankBatch:
    """Training points: where a frozen trajectory stood and what the frozen model said there.

    Args:
        latents: (n, C, h, w) float32.
        t: (n,) timesteps.
        prompt_index: (n,) which prompt of the source each trajectory was drawn for.
        pred_null: (n, C, h, w) prediction for the empty prompt.
        pred_cond: (n, C, h, w) prediction for the prompt.
        pred_anchor: (n, C, h, w) prediction for the prompt's anchor, where the source has anchors.
    """

    latents: Tensor
    t: Tensor
    prompt_index: Tensor
    pred_null: Tensor
    pred_cond: Tensor
    pred_anchor: Tensor | None = None


class PointSource(Protocol):
    """Anything that training points can be drawn from."""

    prompts: tuple[str, ...]

    def sample(self, n: int, generator: Generator, *, prompt_index: Tensor | None = None) -> BankBatch:
        """Draw n points, for the given prompts (n,) or for prompts drawn uniformly."""
        ...


def bank_key(backbone: Backbone, settings: BankConfig) -> dict[str, Any]:
    """Return everything a trajectory depends on beside its prompt and seed.

    Weights enter by a hash of all their bytes: a sketch would miss a small fused adapter.
    """
    schedule = {name: backbone.scheduler.config[name] for name in SCHEDULE}
    return {
        "format": FORMAT,
        "unet": content_sha256(backbone.unet.state_dict()),
        "text_encoder": content_sha256(backbone.text_encoder.state_dict()),
        "probe_ids": backbone.tokenize(["a photo of 3 red circles, by Van Gogh!"])[0].tolist(),
        "alphas_cumprod": hashlib.sha256(backbone.alphas_cumprod.double().numpy().tobytes()).hexdigest(),
        "scheduler": schedule,
        "latent_shape": list(backbone.latent_shape),
        "precision": backbone.computes_in,
        "guidance": settings.guidance,
        "steps": settings.steps,
    }


class TrajectoryBank:
    """Every step of many DDIM runs of the frozen model, with its predictions there, in half precision.

    In text-encoder mode all that AdvUnlearn samples depends on the frozen base alone, so it is computed once. On disk
    it is one mapped file for each prompt, anchor and seed, in a folder named by a hash of ``bank_key``: later runs on
    the same base reuse and extend it, an interrupted build goes on where it was, and processes that build at the same
    time share the work.

    Args:
        prompts: One for each value of ``prompt_index``.
        shards: ``shards[i]`` are the trajectories of ``prompts[i]``, each of S steps.
        device: Where batches are put.
    """

    def __init__(
        self, prompts: Sequence[str], shards: Sequence[Sequence[StoredTrajectory]], device: torch.device
    ) -> None:
        self.prompts = tuple(prompts)
        self.shards = tuple(tuple(group) for group in shards)
        self.device = device

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        backbone: Backbone,
        prompts: Sequence[str],
        settings: BankConfig,
        *,
        anchors: Sequence[str] | None = None,
        cache_dir: Path | None = None,
        progress: bool = True,
    ) -> TrajectoryBank:
        """Run the trajectories that are not in the cache yet, and open all of them.

        Args:
            backbone: The frozen base.
            prompts: Prompts, each with ``settings.seeds`` trajectories.
            settings: Steps, guidance, batch.
            anchors: The anchor of each prompt, to store its predictions as well.
            cache_dir: Parent of all banks; None keeps this one in memory.
            progress: Show a progress bar.

        Raises:
            ValueError: No prompts, as many anchors as prompts are not given, or numbers of trajectories for two lists.
            BankError: The cache holds another bank in this one's place, or a damaged file.
        """
        if not prompts or (anchors is not None and len(anchors) != len(prompts)):
            raise ValueError(
                f"expected at least one prompt and one anchor for each, found {len(prompts)} prompts and "
                f"{'no' if anchors is None else len(anchors)} anchors"
            )
        if not isinstance(settings.seeds, int):
            raise ValueError(f"expected one number of seeds, found {settings.seeds}: use for_concept() or for_retain()")
        paired: Sequence[str | None] = [None] * len(prompts) if anchors is None else anchors
        jobs = [Trajectory(p, a, s) for p, a in zip(prompts, paired, strict=True) for s in range(settings.seeds)]
        store = None if cache_dir is None else BankStore.open(cache_dir, bank_key(backbone, settings))
        made = run_in_memory(backbone, jobs, settings, progress) if store is None else {}
        if store is not None:
            fill(store, backbone, jobs, settings, progress)
        shards = [made[job] if store is None else store.read(job.name) for job in jobs]
        groups = [shards[i : i + settings.seeds] for i in range(0, len(shards), settings.seeds)]
        return cls(prompts, groups, backbone.device)

    def sample(self, n: int, generator: Generator, *, prompt_index: Tensor | None = None) -> BankBatch:
        """Draw n points uniformly over prompts (unless given), trajectories and steps."""
        index = draw(len(self.prompts), n, generator) if prompt_index is None else prompt_index.cpu()
        seeds, steps = len(self.shards[0]), len(self.shards[0][0]["t"])
        seed, step = draw(seeds, n, generator).tolist(), draw(steps, n, generator).tolist()
        rows = [self.shards[i][s] for i, s in zip(index.tolist(), seed, strict=True)]
        drawn = {k: torch.stack([row[k][j] for row, j in zip(rows, step, strict=True)]) for k in rows[0]}
        return to_batch(drawn, index, self.device)

    def mean_difference(self) -> float:
        """Return the mean squared difference of the predictions with and without the prompt."""
        shards = [shard for group in self.shards for shard in group]
        means = [(s["pred_cond"].float() - s["pred_null"].float()).square().mean() for s in shards]
        return float(torch.stack(means).mean())


def draw(high: int, n: int, generator: Generator) -> Tensor:
    """Return n indices below ``high``, uniformly."""
    return torch.randint(high, (n,), generator=generator)


def to_batch(drawn: dict[str, Tensor], index: Tensor, device: torch.device) -> BankBatch:
    """Return drawn points on the device, predictions in float32."""
    moved = {k: v.to(device) if k == "t" else v.to(device, torch.float32) for k, v in drawn.items()}
    return BankBatch(prompt_index=index, **moved)
