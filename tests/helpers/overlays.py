"""Overlays of every form with random values, for tests of what attaches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robust_encoders import Base, Concept, Manifest
from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.overlay import Overlay
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX, text_layers, unet_layers
from robust_encoders.overlays.projection import PROJECTION_TENSOR
from robust_encoders.pipeline.shared_copy import original_of

PARTS = {UNET_PREFIX: ("unet", unet_layers), TEXT_PREFIX: ("text_encoder", text_layers)}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapter_tensors(
    pipe: Any, seed: int, prefixes: tuple[str, ...] = (UNET_PREFIX,), rank: int = 1
) -> dict[str, Tensor]:
    """Return adapters of random values for every layer, large enough to be seen."""
    g, tensors = generator(seed), {}
    for prefix in prefixes:
        component, layers = PARTS[prefix]
        root = original_of(getattr(pipe, component))
        for stem, path in layers(root).items():
            weight: Tensor = unwrapped(root).get_submodule(path).weight
            tail = (1, 1) if weight.ndim == 4 else ()
            tensors[f"{prefix}{stem}.lora_down.weight"] = torch.randn(rank, weight.shape[1], *tail, generator=g)
            tensors[f"{prefix}{stem}.lora_up.weight"] = 0.3 * torch.randn(weight.shape[0], rank, *tail, generator=g)
            tensors[f"{prefix}{stem}.alpha"] = torch.tensor(1.0)
    return tensors


def manifest_for(pipe: Any, concept: str, form: Any, component: str = "unet", method: str = "spm") -> Manifest:
    base = Base.from_pipeline(pipe, family="tiny", with_unet=True)
    return Manifest(
        concept=Concept(name=concept, kind="object"),
        form=form,
        component=component,
        method={"name": method},
        base=base,
        license="apache-2.0",
    )


def make_adapter(
    pipe: Any,
    concept: str = "red circle",
    *,
    seed: int = 0,
    prompts: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (UNET_PREFIX,),
) -> Overlay:
    """Return an adapter made for a bare pipeline."""
    component = "unet" if UNET_PREFIX in prefixes else "text_encoder"
    manifest = manifest_for(pipe, concept, "adapter", component)
    config = {"prompts": list(prompts or (concept,)), "rank": 1, "alpha": 1.0}
    return Overlay(manifest, adapter_tensors(pipe, seed, prefixes), config)


def make_projection(pipe: Any, concept: str = "red circle", *, seed: int = 0) -> Overlay:
    """Return a projection made for the text encoder of a pipeline."""
    width = original_of(pipe.text_encoder).config.hidden_size
    matrix = torch.eye(width) + 0.2 * torch.randn(width, width, generator=generator(seed))
    return Overlay(manifest_for(pipe, concept, "projection", "text_encoder", "uce"), {PROJECTION_TENSOR: matrix}, {})


def delta_tensors(pipe: Any, seed: int = 0, part: str = "attn2") -> dict[str, Tensor]:
    """Return the parameters of a UNet whose names contain a text, each changed enough to be seen."""
    g = generator(seed)
    named = original_of(pipe.unet).named_parameters()
    return {
        name: (value.detach() + 0.5 * torch.randn(value.shape, generator=g)).to(value.dtype)
        for name, value in named
        if part in name
    }


def make_delta(pipe: Any, concept: str = "red circle", *, seed: int = 0, part: str = "attn2") -> Overlay:
    """Return a delta made for a bare pipeline."""
    return Overlay(manifest_for(pipe, concept, "delta", "unet", "esd"), delta_tensors(pipe, seed, part), {})


def eraser_tensors(pipe: Any, seed: int = 0, rank: int = 4) -> dict[str, Tensor]:
    """Return modules of random values after every cross-attention, large enough to be seen."""
    g = generator(seed)
    tensors: dict[str, Tensor] = {}
    for path, module in original_of(pipe.unet).named_modules():
        if path.endswith(".attn2"):
            width = module.to_out[0].weight.shape[0]
            for part, shape in {"down": (rank, width), "up": (width, rank)}.items():
                tensors[f"{path}.{part}.weight"] = torch.randn(shape, generator=g)
                tensors[f"{path}.{part}.bias"] = torch.randn(shape[0], generator=g)
    return tensors


def make_eraser(pipe: Any, concept: str = "red circle", *, seed: int = 0, rank: int = 4) -> Overlay:
    """Return an eraser made for a bare pipeline."""
    return Overlay(manifest_for(pipe, concept, "eraser", "unet", "receler"), eraser_tensors(pipe, seed, rank), {})


def drawn(pipe: Any, prompts: list[str] | str, **options: Any) -> Tensor:
    """Return pictures (B, H, W, 3) from one generator per picture."""
    many = [prompts] if isinstance(prompts, str) else prompts
    per = options.get("num_images_per_prompt", 1)
    seeds = [generator(i) for i in range(len(many) * per)]
    pictures = pipe(many, num_inference_steps=2, output_type="pt", generator=seeds, **options).images
    found: Tensor = pictures
    return found


@torch.no_grad()
def skipped(pipe: Any, prompt: str) -> Tensor:
    """Return the conditioning (1, L, D) of a prompt with ``clip_skip=1``, by the steps of a pipeline.

    Not by the pipeline itself: up to diffusers 0.42 it looks for a ``text_model``, which transformers 5.6 took away.
    """
    ids = pipe.tokenizer([prompt], padding="max_length", max_length=24, return_tensors="pt").input_ids
    hidden = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    found: Tensor = getattr(pipe.text_encoder, "text_model", pipe.text_encoder).final_layer_norm(hidden)
    return found
