"""One load in a process of its own, with its time and memory: ``python load_costs.py KIND FOLDER SMALL_FOLDER``.

The same is done with a small artifact first, so that imports are not measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_models import make_tokenizer, make_unet, make_vae
from transformers import CLIPTextModel
from transformers.utils import logging

from robust_encoders import Base, RobustEncoder


def memory() -> tuple[float, float, float]:
    """Return memory now, its peak, and the private part now, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak, private = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon"))
    return now, peak, private


def theirs(folder: Path) -> Any:
    """Load by transformers alone."""
    return CLIPTextModel.from_pretrained(folder)


def ours(folder: Path) -> Any:
    """Load and verify by this package."""
    encoder: Any = RobustEncoder.from_pretrained(folder)
    return encoder.text_encoder()


def copied(folder: Path) -> Any:
    """Read the bytes of the file into memory and do nothing else."""
    path = folder / "model.safetensors"
    data = torch.empty(path.stat().st_size, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.readinto(data.numpy().data)
    return data


def pipeline_of(folder: Path) -> Any:
    """Return a pipeline with the text encoder in a folder, and with a tiny UNet of the right width."""
    text_encoder = theirs(folder)
    del text_encoder.config.robust_encoders  # it passes for the encoder of a base
    with TemporaryDirectory() as words:
        tokenizer = make_tokenizer(Path(words), max_length=text_encoder.config.max_position_embeddings)
    return StableDiffusionPipeline(
        vae=make_vae(), text_encoder=text_encoder, tokenizer=tokenizer,
        unet=make_unet(text_encoder.config.hidden_size), scheduler=DDIMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def prepared(kind: str, folder: Path) -> Callable[[], Any]:
    """Return what is measured; for ``attach`` both encoders are in memory before."""
    if kind != "attach":
        load = {"transformers": theirs, "ours": ours, "copied": copied}[kind]
        return lambda: load(folder)
    pipe, encoder = pipeline_of(folder), RobustEncoder.from_pretrained(folder)
    for tensor in encoder.tensors.values():
        tensor.add_(0.001)  # another encoder than that of the pipeline
    manifest = replace(encoder.manifest, base=Base.from_pipeline(pipe, family="SD 1.4", with_unet=True))
    changed = RobustEncoder(manifest, encoder.tensors, encoder.config)
    assert changed.content_sha256 != encoder.content_sha256  # a loaded encoder has its hash already, too
    return lambda: changed.attach(pipe).text_encoder


def encode(model: Any) -> None:
    """Compute one prompt, which touches all weights but most token embeddings."""
    tokens = torch.randint(model.config.vocab_size, (1, 77), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(tokens)


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what an action returns, and its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main(kind: str, full: Path, small: Path) -> dict[str, float]:
    """Measure one load and the first prompt after it."""
    encodes = kind != "copied"
    model = prepared(kind, small)()
    if encodes:
        encode(model)
    action = prepared(kind, full)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory()
    model, found = timed(action)
    after = memory()
    found |= {"peak": after[1] - before[0], "own": after[2] - before[2], "prompt": 0.0}
    if encodes:
        found["prompt"] = timed(lambda: encode(model))[1]["cpu"]
    return found


if __name__ == "__main__":
    logging.disable_progress_bar()
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))) + "\n")
