"""Build of an embedded base from scratch, in stages that can be resumed and are kept when done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from robust_encoders.utils.home import expanded, expanded_or_none

from . import stages as parts
from .assemble import assemble
from .config import Sizes
from .corpus import Corpus, new_judge
from .judge_stage import train_judge
from .networks import new_tower
from .workshop import PRETRAINED, STAGES, Workshop

_log = logging.getLogger(__name__)


def _autoencoder(shop: Workshop) -> None:
    model, start = parts.new_autoencoder(shop.corpus.networks), time.monotonic()
    loss = parts.train_autoencoder(model, shop.course("autoencoder"))
    factor = model.config.scaling_factor
    shop.keep("autoencoder", model, {"loss": loss, "scaling_factor": factor, "seconds": time.monotonic() - start})


def _text(shop: Workshop) -> None:
    tokenizer, start = shop.tokenizer(), time.monotonic()
    config = shop.corpus.networks
    encoder, tower = parts.new_text_encoder(tokenizer, config), new_tower(config)
    loss = parts.train_text(encoder, tower, tokenizer, shop.course("text"))
    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    shop.keep("text", both, {"loss": loss, "seconds": time.monotonic() - start})


def _unet(shop: Workshop) -> None:
    """Train the parts of the UNet's schedule that are not finished; of the finished ones, only the last is read."""
    unet, count = parts.new_unet(shop.corpus.networks), shop.sizes.unet_parts
    names = [f"unet/part-{number + 1}" for number in range(count)] if count > 1 else ["unet"]
    finished = _finished_parts(shop, names) if count > 1 else 0
    if finished:
        shop.restore(unet, names[finished - 1]).requires_grad_(True)
    for number in range(finished, count):
        _unet_part(shop, unet, names[number], number)
        shop.restore(unet, names[number]).requires_grad_(True)
    if count > 1:
        done = [shop.record(name) for name in names]
        shop.keep("unet", unet, {"loss": done[-1]["loss"], "seconds": sum(part["seconds"] for part in done)})


def _finished_parts(shop: Workshop, names: Sequence[str]) -> int:
    """Return how many parts of the UNet's schedule are finished, from the first one on.

    Raises:
        ValueError: If a part before a finished one is missing, or a part has other steps of the schedule.
    """
    finished = 0
    for number, name in enumerate(names):
        if not shop.has(name):
            continue
        expected, found = list(_span(shop, number)), shop.record(name)["steps"]
        if number != finished or found != expected:
            raise ValueError(
                f"expected {name} with the steps {expected} behind {number} finished parts in {shop.folder}, found the "
                f"steps {found} behind {finished}; delete {shop.folder / 'unet'}, or choose another folder with --work"
            )
        finished += 1
    return finished


def _span(shop: Workshop, number: int) -> tuple[int, int]:
    """Return the first step of a part of the UNet's schedule, and the step after its last; parts count from 0."""
    steps, count = shop.sizes.unet.steps, shop.sizes.unet_parts
    return steps * number // count, steps * (number + 1) // count


def _unet_part(shop: Workshop, unet: UNet2DConditionModel, stage: str, number: int) -> None:
    """Train one part of the UNet's schedule; its number counts from 0."""
    course, start = shop.course(stage), time.monotonic()
    span = _span(shop, number)
    compiled = parts.compiles(shop.sizes)
    loss = parts.train_unet(unet, _conditioner(shop), shop.latents(), course, span)
    shop.keep(
        stage, unet, {"loss": loss, "seconds": time.monotonic() - start, "steps": list(span), "compiled": compiled}
    )


def _conditioner(shop: Workshop) -> Callable[[list[str]], Tensor]:
    tokenizer, encoder = shop.tokenizer(), shop.text()[0]

    @torch.no_grad()
    def condition(captions: list[str]) -> Tensor:
        states: Tensor = encoder(parts.token_ids(tokenizer, captions)).last_hidden_state
        return states

    return condition


def _judge(shop: Workshop) -> None:
    judge, start = new_judge(shop.corpus), time.monotonic()
    loss = train_judge(judge, shop.autoencoder(), shop.course("judge"), shop.rejects())
    shop.keep("judge", judge, {"loss": loss, "seconds": time.monotonic() - start})


def build(
    corpus: Corpus,
    out: str | Path,
    *,
    seed: int = 0,
    stages: Sequence[str] | None = None,
    sizes: Sizes | None = None,
    work: str | Path | None = None,
) -> None:
    """Build the base into ``out``; a second call continues where the first one stopped.

    Args:
        corpus: World to build a base for.
        out: Folder that receives ``base/``, ``judge.safetensors``, ``image_tower.safetensors`` and ``RECORD.json``.
        seed: Seed of every stage.
        stages: Stages to run, some of ``STAGES``; None runs all. Finished stages are not run again.
        sizes: Steps and batch sizes; None takes those of the world.
        work: Folder for checkpoints; None takes ``out / "work"``.

    Raises:
        ValueError: If a stage is unknown, or if the work folder was begun with other sources.
        FileNotFoundError: If a stage needs another one that has not run.
    """
    wanted = tuple(stages or STAGES)
    if unknown := set(wanted) - set(STAGES):
        raise ValueError(f"expected stages among {', '.join(STAGES)}, found {', '.join(sorted(unknown))}")
    out = expanded(out)
    shop = Workshop(corpus, expanded_or_none(work) or out / "work", sizes or corpus.sizes, seed)
    shop.require_same_sources()
    trainers = {"autoencoder": _autoencoder, "text": _text, "unet": _unet, "judge": _judge}
    for stage in (stage for stage in trainers if stage in wanted):
        if shop.has(stage):
            _log.info("%s: finished before, kept", stage)
            continue
        torch.manual_seed(seed)
        trainers[stage](shop.pretraining() if stage in PRETRAINED else shop)
    if "assemble" in wanted:
        assemble(shop, out)
