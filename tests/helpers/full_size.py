"""A few iterations of AdvUnlearn on random weights of published sizes: full_size.py SIZE OPTIONS FOLDER.

OPTIONS are fields of ``Workspace`` in JSON; FOLDER receives the bank and ``found.json``. A process of its own, so that
its peak of memory is that of the run.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tiny_models import make_tokenizer
from torch import Generator, nn
from transformers import CLIPTextConfig, CLIPTextModel

from robust_encoders import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, HardeningConfig, RetainConfig
from robust_encoders.training.prompts.retain import everyday_objects
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

GIB = 2**30
ITERATIONS, ATTACK_STEPS = 2, 5
CONDITIONING_ITERATIONS = 3
RETAINED = ("a photo of a teapot", "a photo of an armchair")


@dataclass(frozen=True)
class Size:
    """Configurations as published beside the weights; what is not here is the libraries' default.

    Args:
        unet: Of ``UNet2DConditionModel``.
        text_encoder: Of ``CLIPTextConfig``.
        prediction_type: Of the scheduler.
    """

    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    prediction_type: str = "epsilon"


_CHANNELS = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
SIZES = {
    "sd1": Size(
        {**_CHANNELS, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "hidden_act": "quick_gelu",
        },
    ),
    "sd2": Size(
        {
            **_CHANNELS, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
        "v_prediction",
    ),
    # The same parts in the same places, for tests that take seconds.
    "small": Size(
        {
            "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "sample_size": 8, "cross_attention_dim": 32,
            "attention_head_dim": 8,
        },
        {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
            "hidden_act": "quick_gelu",
        },
        "v_prediction",
    ),
}  # fmt: skip


def unet_of(size: Size) -> nn.Module:
    """The UNet without memory for its weights."""
    with torch.device("meta"):
        unet: nn.Module = UNet2DConditionModel(**size.unet)
    return unet.eval()


def text_encoder_of(size: Size, tokenizer: Any = None) -> nn.Module:
    """The text encoder without memory for its weights."""
    special = (
        {} if tokenizer is None else {f"{x}_token_id": getattr(tokenizer, f"{x}_token_id") for x in ("bos", "eos")}
    )
    with torch.device("meta"):
        encoder: nn.Module = CLIPTextModel(CLIPTextConfig(vocab_size=49408, **size.text_encoder, **special))
    return encoder.eval()


def filled(module: nn.Module, dtype: torch.dtype) -> Any:
    """Give a module without memory random weights at which no activation grows; far quicker than its own way."""
    module = module.to(dtype).to_empty(device="cpu")
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter.zero_()
            else:
                bound = (parameter.numel() / len(parameter)) ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1)
        for name, buffer in module.named_buffers():
            assert name.endswith("position_ids"), name
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module


def base(size: Size, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Any:
    """All that training takes from a pipeline.

    Args:
        size: Which one.
        folder: Receives the files of a tokenizer.
        dtype: Of the UNet.
    """
    tokenizer = make_tokenizer(folder / "tokenizer", max_length=77)
    scheduler: Any = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=size.prediction_type,
    )  # fmt: skip
    return SimpleNamespace(
        tokenizer=tokenizer,
        text_encoder=filled(text_encoder_of(size, tokenizer), torch.float32),
        unet=filled(unet_of(size), dtype),
        scheduler=scheduler,
    )


def method() -> AdvUnlearn:
    """The paper's batches, 1 and 5, and few of everything else."""
    return AdvUnlearn(
        retain=RetainConfig(prompts=RETAINED),
        attack=SoftPrompt(steps=ATTACK_STEPS),
        adversary=AdversaryConfig(warmup=0),
        train=TrainingConfig(iterations=ITERATIONS, precision="bf16"),
        bank=BankConfig(steps=2, batch=1),
    )


def conditioning_method(attack_steps: int) -> AdvUnlearn:
    """All in conditioning space: 16 prompts with the concept, attacked or not, and 64 retained ones an iteration."""
    retained = tuple(f"a photo of {name}" for name in everyday_objects()[:128])
    return AdvUnlearn(
        retain=RetainConfig(prompts=retained, space="conditioning", conditioning_batch=64),
        hardening=HardeningConfig(objective="conditioning", batch=16),
        hardening_attack=SoftPrompt(steps=max(1, attack_steps), rate=1e-2),
        adversary=AdversaryConfig(warmup=0 if attack_steps else CONDITIONING_ITERATIONS),
        train=TrainingConfig(iterations=CONDITIONING_ITERATIONS, precision="bf16"),
        bank=BankConfig(steps=1, seeds=(1, 1), batch=1),
    )


def memory() -> dict[str, int]:
    """Bytes: now, at most so far, and of the first how much no file stands behind."""
    text = Path("/proc/self/status").read_text()
    names = {"VmRSS": "now", "VmHWM": "peak", "RssAnon": "private"}
    return {ours: int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) * 1024 for name, ours in names.items()}


def run(name: str, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train and return what it took; ``loaded`` is the memory before."""
    options = dict(options)
    steps = options.pop("conditioning", None)
    erased = method() if steps is None else conditioning_method(steps)
    pipe = base(SIZES[name], folder)
    started, loaded = time.monotonic(), memory()
    workspace: Any = Workspace(**{"cache_dir": folder / "bank", "progress": False, **options})
    concept = Concept(name="nudity", kind="content")
    backbone = Backbone.from_pipeline(pipe)
    edit = erased.erase(backbone, concept, generator=Generator().manual_seed(0), workspace=workspace)
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors.values())
    return {
        "size": name,
        "options": dict(options),
        "latents": list(backbone.latent_shape),
        "losses": edit.log["losses"],
        "finite": finite,
        "unet_calls": edit.log["unet_calls"],
        "bank_unet_calls": edit.log["bank_unet_calls"],
        "seconds": time.monotonic() - started,
        "seconds_training": edit.log["seconds"],
        "loaded": loaded,
        "after": memory(),
    }


if __name__ == "__main__":
    place = Path(sys.argv[3])
    found = run(sys.argv[1], json.loads(sys.argv[2]), place)
    (place / "found.json").write_text(json.dumps(found))
