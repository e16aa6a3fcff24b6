"""Builds the embedded base from nothing: stage by stage, each resumable, each kept when done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..shapes.networks import ImageTower, JudgeNet
from ..shapes.pictures import Pictures, cached_pictures
from . import stages as parts
from .stages import Course, Sizes

STAGES = ("autoencoder", "text", "unet", "judge", "assemble")
M = TypeVar("M", bound=nn.Module)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """The folder of a build in progress and what its stages made so far.

    Args:
        folder: Holds pictures, checkpoints and finished weights.
        sizes: Steps and batches.
        seed: Seeds every stage.
    """

    folder: Path
    sizes: Sizes
    seed: int

    def pictures(self) -> Pictures:
        """Return the training pictures, rendered once."""
        return cached_pictures(self.folder / "pictures.safetensors", self.sizes.pictures, seed=self.seed)

    def course(self, stage: str) -> Course:
        """Return what a stage learns from."""
        return Course(self.pictures(), self.sizes, self.folder / stage, self.seed)

    def tokenizer(self) -> CLIPTokenizer:
        """Return the tokenizer; learning it takes a second, so it is not stored."""
        return parts.new_tokenizer(seed=self.seed)

    def autoencoder(self) -> AutoencoderKL:
        """Return the finished autoencoder."""
        model = parts.new_autoencoder()
        model.register_to_config(scaling_factor=self.record("autoencoder")["scaling_factor"])
        return self.restore(model, "autoencoder")

    def text(self) -> tuple[CLIPTextModel, ImageTower]:
        """Return the finished text encoder and image tower."""
        both = {"encoder": parts.new_text_encoder(self.tokenizer()), "tower": ImageTower(parts.WIDTH)}
        self.restore(nn.ModuleDict(both), "text")
        return both["encoder"], both["tower"]

    def unet(self) -> UNet2DConditionModel:
        """Return the finished UNet."""
        return self.restore(parts.new_unet(), "unet")

    def judge(self) -> JudgeNet:
        """Return the finished judge."""
        return self.restore(JudgeNet(), "judge")

    def record(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage wrote down.

        Raises:
            FileNotFoundError: If the stage has not run.
        """
        path = self.folder / stage / "record.json"
        if not path.exists():
            raise FileNotFoundError(f"expected a finished stage {stage!r} in {self.folder}, found none; run it first")
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored

    def restore(self, module: M, stage: str) -> M:
        """Load a finished stage's weights into ``module``, frozen."""
        module.load_state_dict(load_file(self.folder / stage / "final.safetensors"))
        return module.eval().requires_grad_(False)

    def keep(self, stage: str, module: nn.Module, record: Mapping[str, Any]) -> None:
        """Store a stage's weights, then its record, which marks it finished."""
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
        save_file(weights, folder / "final.tmp")
        (folder / "final.tmp").replace(folder / "final.safetensors")
        aside = folder / "record.tmp"
        aside.write_text(json.dumps(dict(record), indent=2))
        aside.replace(folder / "record.json")


def _autoencoder(shop: Workshop) -> None:
    model, start = parts.new_autoencoder(), time.monotonic()
    loss = parts.train_autoencoder(model, shop.course("autoencoder"))
    factor = model.config.scaling_factor
    shop.keep("autoencoder", model, {"loss": loss, "scaling_factor": factor, "seconds": time.monotonic() - start})


def _text(shop: Workshop) -> None:
    tokenizer, start = shop.tokenizer(), time.monotonic()
    encoder, tower = parts.new_text_encoder(tokenizer), ImageTower(parts.WIDTH)
    loss = parts.train_text(encoder, tower, tokenizer, shop.course("text"))
    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    shop.keep("text", both, {"loss": loss, "seconds": time.monotonic() - start})


def _unet(shop: Workshop) -> None:
    course, unet, start = shop.course("unet"), parts.new_unet(), time.monotonic()
    latents = parts.encode_pictures(shop.autoencoder(), course.pictures)
    loss = parts.train_unet(unet, _conditioner(shop), latents, course)
    shop.keep("unet", unet, {"loss": loss, "seconds": time.monotonic() - start})


def _conditioner(shop: Workshop) -> Callable[[list[str]], Tensor]:
    tokenizer, encoder = shop.tokenizer(), shop.text()[0]

    @torch.no_grad()
    def condition(captions: list[str]) -> Tensor:
        states: Tensor = encoder(parts.token_ids(tokenizer, captions)).last_hidden_state
        return states

    return condition


def _judge(shop: Workshop) -> None:
    judge, start = JudgeNet(), time.monotonic()
    loss = parts.train_judge(judge, shop.autoencoder(), shop.course("judge"))
    shop.keep("judge", judge, {"loss": loss, "seconds": time.monotonic() - start})


def build(
    out: Path,
    *,
    seed: int = 0,
    stages: Sequence[str] | None = None,
    sizes: Sizes | None = None,
    work: Path | None = None,
) -> None:
    """Build the base into ``out``; a second call goes on where the first was stopped.

    Args:
        out: Receives ``base/``, ``judge.safetensors``, ``image_tower.safetensors`` and ``RECORD.json``.
        seed: Seeds every stage.
        stages: Some of ``STAGES``, in order; all of them when None. Finished stages are not run again.
        sizes: Steps and batches; the defaults made the packaged base.
        work: Folder for checkpoints, ``out / "work"`` when None.

    Raises:
        ValueError: If a stage is unknown.
        FileNotFoundError: If a stage needs one that has not run.
    """
    wanted = tuple(stages or STAGES)
    if unknown := set(wanted) - set(STAGES):
        raise ValueError(f"expected stages among {', '.join(STAGES)}, found {', '.join(sorted(unknown))}")
    shop = Workshop(work or out / "work", sizes or Sizes(), seed)
    trainers = {"autoencoder": _autoencoder, "text": _text, "unet": _unet, "judge": _judge}
    for stage in (stage for stage in trainers if stage in wanted):
        if (shop.folder / stage / "record.json").exists():
            _log.info("%s: finished before, kept", stage)
            continue
        torch.manual_seed(seed)
        trainers[stage](shop)
    if "assemble" in wanted:
        from .assemble import assemble

        assemble(shop, out)
