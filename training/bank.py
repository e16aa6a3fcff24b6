"""Latents and frozen-model predictions, computed once and drawn from at every training step."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from tqdm import tqdm

from robust_encoders.fingerprint import content_sha256

from .backbone import Backbone

logger = logging.getLogger(__name__)
FORMAT = 1
# What DDIM reads from its configuration beside the noise schedule itself.
SCHEDULE = (
    "num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample",
    "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
)  # fmt: skip
Shard = dict[str, Tensor]


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


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """How trajectories of the frozen model are run.

    Departure from the paper: t lies on the grid of the DDIM run, where the latents belong; the authors query the UNet
    39 to 58 timesteps away from the noise level of the latent.

    Args:
        mode: ``bank`` runs whole trajectories once; ``resample`` runs fresh ones for every draw, as the paper does.
        steps: DDIM steps (paper: 50).
        guidance: Classifier-free guidance of the trajectories (paper: 3).
        seeds: Trajectories for each prompt.
        batch: Trajectories run at once.
        limit: At most this many prompts of each list get trajectories; None takes all.

    Raises:
        ValueError: A count below 1, or an unknown mode.
    """

    mode: Literal["bank", "resample"] = "bank"
    steps: int = 50
    guidance: float = 3.0
    seeds: int = 1
    batch: int = 64
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("bank", "resample"):
            raise ValueError(f"expected mode 'bank' or 'resample', found {self.mode!r}")
        if min(self.steps, self.seeds, self.batch, self.limit or 1) < 1:
            raise ValueError(f"expected steps, seeds, batch and limit of at least 1, found {self}")


def bank_key(backbone: Backbone, settings: BankSettings) -> dict[str, Any]:
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
        "precision": backbone.precision,
        "guidance": settings.guidance,
        "steps": settings.steps,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def start_noise(backbone: Backbone, prompt: str, seed: int) -> Tensor:
    """Return the start latent (C, h, w) of one trajectory; it follows from prompt and seed alone."""
    generator = Generator().manual_seed(int(_digest([prompt, seed])[:15], 16))
    return torch.randn(backbone.latent_shape, generator=generator)


def write_atomically(tensors: Shard, path: Path) -> None:
    """Write a safetensors file aside and rename it, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(aside), metadata={"format": "pt"})
    os.replace(aside, path)


@dataclass(frozen=True)
class _Job:
    """One trajectory to run: a shard of the bank."""

    prompt: str
    anchor: str | None
    seed: int

    @property
    def file(self) -> str:
        return f"{_digest([self.prompt, self.anchor, self.seed])[:24]}.safetensors"


class _Roller:
    """Runs trajectories of the frozen model in batches."""

    def __init__(self, backbone: Backbone, settings: BankSettings) -> None:
        self.backbone, self.settings = backbone, settings
        self.null = backbone.condition([""])

    def run(self, jobs: Sequence[_Job]) -> list[Shard]:
        backbone, s = self.backbone, self.settings
        noise = torch.stack([start_noise(backbone, job.prompt, job.seed) for job in jobs])
        noise = noise.half().to(backbone.device, backbone.dtype)
        cond = backbone.condition([job.prompt for job in jobs])
        anchors = [job.anchor for job in jobs if job.anchor is not None]
        anchor = backbone.condition(anchors) if anchors else None
        rows: list[Shard] = []
        for step in backbone.rollout(cond, self.null, noise=noise, steps=s.steps, guidance=s.guidance):
            assert step.pred_null is not None
            row = {"latents": step.latents.half(), "t": step.t, "pred_null": step.pred_null.half()}
            row["pred_cond"] = step.pred_cond.half()
            if anchor is not None:
                row["pred_anchor"] = backbone.predict(step.latents, step.t, anchor).half()
            rows.append({k: v.cpu() for k, v in row.items()})
            # The run goes on from the rounded latent, so that stored predictions belong to stored latents exactly.
            step.next.copy_(step.next.half())
        joined = {name: torch.stack([row[name] for row in rows], dim=1) for name in rows[0]}
        return [{name: tensor[i].clone() for name, tensor in joined.items()} for i in range(len(jobs))]


class TrajectoryBank:
    """Every step of many DDIM runs of the frozen model, with its predictions there, in half precision.

    In text-encoder mode all that AdvUnlearn samples depends on the frozen base alone, so it is computed once. On disk
    it is one shard for each prompt, anchor and seed, in a folder named by a hash of ``bank_key``: later runs on the
    same base reuse and extend it, and an interrupted build goes on where it was.

    Args:
        prompts: One for each value of ``prompt_index``.
        shards: ``shards[i]`` are the trajectories of ``prompts[i]``, each of S steps.
        device: Where batches are put.
    """

    def __init__(self, prompts: Sequence[str], shards: Sequence[Sequence[Shard]], device: torch.device) -> None:
        self.prompts = tuple(prompts)
        self.shards = tuple(tuple(group) for group in shards)
        self.device = device

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        backbone: Backbone,
        prompts: Sequence[str],
        settings: BankSettings,
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
            ValueError: No prompts, or as many anchors as prompts are not given.
        """
        if not prompts or (anchors is not None and len(anchors) != len(prompts)):
            raise ValueError(
                f"expected at least one prompt and one anchor for each, found {len(prompts)} prompts and "
                f"{'no' if anchors is None else len(anchors)} anchors"
            )
        paired: Sequence[str | None] = [None] * len(prompts) if anchors is None else anchors
        jobs = [_Job(p, a, s) for p, a in zip(prompts, paired, strict=True) for s in range(settings.seeds)]
        folder = None if cache_dir is None else _open_folder(cache_dir, bank_key(backbone, settings))
        made: dict[_Job, Shard] = {}
        for done in _missing(backbone, jobs, settings, folder, progress):
            if folder is None:
                made.update(done)
            else:
                for job, shard in done.items():
                    write_atomically(shard, folder / job.file)
        shards = [made[job] if folder is None else load_file(str(folder / job.file)) for job in jobs]
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


def _open_folder(cache_dir: Path, key: dict[str, Any]) -> Path:
    folder = cache_dir / _digest(key)[:24]
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "key.json"
    if not note.exists():
        aside = folder / f".key.{os.getpid()}"
        aside.write_text(json.dumps(key, indent=1, sort_keys=True))
        os.replace(aside, note)
    return folder


def _missing(
    backbone: Backbone, jobs: Sequence[_Job], settings: BankSettings, folder: Path | None, progress: bool
) -> Iterator[dict[_Job, Shard]]:
    """Run what is not on disk, a batch at a time."""
    todo = list(dict.fromkeys(job for job in jobs if folder is None or not (folder / job.file).exists()))
    logger.info("trajectory bank: %d of %d trajectories to run", len(todo), len(jobs))
    if not todo:
        return
    roller = _Roller(backbone, settings)
    with tqdm(total=len(todo), desc="bank", unit="trajectory", disable=not progress) as bar:
        for start in range(0, len(todo), settings.batch):
            chunk = todo[start : start + settings.batch]
            yield dict(zip(chunk, roller.run(chunk), strict=True))
            bar.update(len(chunk))
