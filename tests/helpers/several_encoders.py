"""Tiny random pipelines with several text encoders: SDXL, its refiner, SD 3 and FLUX."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_models import make_unet
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.clip.state_dict import nested_state

# Widths that differ, so that a mistake between the slots cannot pass.
SECOND_WIDTH, PROJECTED = 24, 20
# Called through Any: the libraries' own types are not followed.
LOADERS: Any = diffusers


def second_tokenizer(pipe: Any) -> Any:
    """Return the tokenizer of SDXL's second encoder: the same tokens, but padded with exclamation marks."""
    tokenizer = copy.deepcopy(pipe.tokenizer)
    tokenizer.pad_token = "!"
    return tokenizer


def projected(pipe: Any, width: int = SECOND_WIDTH, **overrides: Any) -> Any:
    """Return a text encoder with a projection, for the tokenizer of a tiny pipeline."""
    fields = {**pipe.text_encoder.config.to_dict(), "hidden_size": width, "projection_dim": PROJECTED, **overrides}
    kind: Any = CLIPTextModelWithProjection
    return kind(CLIPTextConfig(**fields)).eval()


def _sdxl_unet(width: int, ids: int) -> Any:
    fields = {name: value for name, value in make_unet().config.items() if not name.startswith("_")}
    more = {
        "cross_attention_dim": width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": ids * 8 + PROJECTED,
        "transformer_layers_per_block": (1, 1),
    }
    net: Any = UNet2DConditionModel
    return net(**{**fields, **more}).eval()


def sdxl(pipe: Any, *, seed: int = 0, **overrides: Any) -> Any:
    """Return a small SDXL: the last layer but one of two encoders side by side, the second one pooled as well."""
    kind: Any = StableDiffusionXLPipeline
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            **{name: pipe.components[name] for name in ("vae", "scheduler", "tokenizer", "text_encoder")},
            "unet": _sdxl_unet(pipe.text_encoder.config.hidden_size + SECOND_WIDTH, ids=6),
            "text_encoder_2": projected(pipe),
        }
    made = kind(**{**parts, "tokenizer_2": second_tokenizer(pipe), **overrides}, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


def refiner(pipe: Any) -> Any:
    """Return a small refiner of SDXL, which draws from a picture and has the second encoder alone."""
    kind: Any = StableDiffusionXLImg2ImgPipeline
    return kind(
        vae=pipe.vae, scheduler=pipe.scheduler, text_encoder=None, tokenizer=None, text_encoder_2=projected(pipe),
        tokenizer_2=second_tokenizer(pipe), unet=_sdxl_unet(SECOND_WIDTH, ids=5), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip


def t5(pipe: Any, width: int = 16) -> Any:
    """Return a small T5 encoder for the tokenizer of a tiny pipeline."""
    kind: Any = T5EncoderModel
    size = pipe.text_encoder.config.vocab_size
    return kind(T5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


def flux(pipe: Any) -> Any:
    """Return a small FLUX: of the CLIP encoder it reads the pooled vector alone."""
    kind: Any = FluxPipeline
    net: Any = FluxTransformer2DModel
    transformer = net(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = pipe.vae
    vae.register_to_config(shift_factor=0.0)
    return kind(
        scheduler=LOADERS.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer, text_encoder_2=t5(pipe), tokenizer_2=pipe.tokenizer, transformer=transformer.eval(),
    )  # fmt: skip


def sd3(pipe: Any, *, with_t5: bool = True) -> Any:
    """Return a small SD 3, whose two CLIP encoders both have a projection; T5 may be left out, as published."""
    kind: Any = StableDiffusion3Pipeline
    joint = pipe.text_encoder.config.hidden_size + SECOND_WIDTH
    transformer = LOADERS.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=joint, caption_projection_dim=16, pooled_projection_dim=2 * PROJECTED, out_channels=4,
    )  # fmt: skip
    return kind(
        transformer=transformer, scheduler=LOADERS.FlowMatchEulerDiscreteScheduler(), vae=pipe.vae,
        text_encoder=projected(pipe, pipe.text_encoder.config.hidden_size), tokenizer=pipe.tokenizer,
        text_encoder_2=projected(pipe), tokenizer_2=second_tokenizer(pipe),
        text_encoder_3=t5(pipe, joint) if with_t5 else None, tokenizer_3=pipe.tokenizer if with_t5 else None,
    )  # fmt: skip


def encoder_for(pipe: Any, component: str = "text_encoder_2", *, seed: int = 1, concept: str = "circle") -> Any:
    """Return a robust encoder for one slot of a pipeline: its text encoder, every tensor changed a little."""
    g = torch.Generator().manual_seed(seed)
    there = getattr(pipe, component)
    tensors = {
        name: tensor.cpu() + 0.1 * torch.randn(tensor.shape, generator=g).to(tensor.dtype)
        for name, tensor in nested_state(there).items()
    }
    manifest = Manifest(
        concept=Concept(name=concept, kind="object"),
        component=component,
        method={"name": "test", "seed": seed},
        base=Base.from_pipeline(pipe, family="tiny-xl", with_unet=True, component=component),
        license="apache-2.0",
    )
    return RobustEncoder(manifest, tensors, there.config.to_dict())


def draw(pipe: Any, prompt: str = "a red circle", **inputs: Any) -> torch.Tensor:
    """Draw with two steps from one seed."""
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    size = {"height": 16, "width": 16} if "image" not in inputs else {}
    found = pipe(prompt, num_inference_steps=2, output_type="pt", generator=seed, **size, **inputs).images
    assert isinstance(found, torch.Tensor)
    return found
