"""Models for ComfyUI with random weights: checkpoints of SD 1 and 2 with whole text encoders and small UNets.

ComfyUI recognises a checkpoint by names and widths, so the UNets have the widths of SD 1 and 2, and few blocks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.clip.state_dict import nested_state

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
from overlays import make_adapter, make_delta, make_projection
from single_files import clip_tensors, open_clip_tensors, save_checkpoint, unet_name

CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407,
}  # fmt: skip
OPEN_CLIP_H = {
    **CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu",
}  # fmt: skip
_SMALL = {
    "sample_size": 8, "block_out_channels": (320, 320), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One family of bases.

    Args:
        name: Name of the family.
        text: Configuration of the text encoder.
        unet: Configuration of the UNet.
        open_clip: True if a checkpoint has the text encoder under OpenCLIP's names, and one layer more.
    """

    name: str
    text: Mapping[str, Any]
    unet: Mapping[str, Any]
    open_clip: bool = False


SD1 = Family("sd1", CLIP_L, {**_SMALL, "cross_attention_dim": 768, "attention_head_dim": 8})
SD2 = Family(
    "sd2", OPEN_CLIP_H,
    {**_SMALL, "cross_attention_dim": 1024, "attention_head_dim": 5, "use_linear_projection": True}, open_clip=True,
)  # fmt: skip


def text_encoder(family: Family, seed: int) -> Any:
    """Return a text encoder with random weights."""
    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(**family.text)).eval()


def base(family: Family, tokenizer: Path) -> Any:
    """Return the parts of a pipeline that artifacts are made from.

    Args:
        family: Family of the base.
        tokenizer: Folder of ComfyUI's tokenizer.
    """
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(tokenizer)
    words.pad_token = "!" if family.open_clip else words.eos_token  # as published for SD 2 and SD 1
    return SimpleNamespace(
        tokenizer=words,
        text_encoder=text_encoder(family, 1),
        unet=UNet2DConditionModel(**family.unet).eval(),
    )


def checkpoint(pipe: Any, family: Family, path: Path) -> Path:
    """Write a base as a single file, without a VAE."""
    state = nested_state(pipe.text_encoder)
    text = _with_a_layer_more(open_clip_tensors(state)) if family.open_clip else clip_tensors(state)
    unet = {unet_name(name, pipe.unet): tensor for name, tensor in pipe.unet.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_checkpoint({**text, **unet}, path)


def _with_a_layer_more(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    more = {name.replace("resblocks.22.", "resblocks.23."): 2 * one for name, one in text.items() if ".22." in name}
    return {**text, **more}


def artifacts(pipe: Any, family: Family, folder: Path) -> None:
    """Save one artifact of each form that ComfyUI can have.

    Args:
        pipe: Base that they are made from.
        family: Family of the base.
        folder: Folder for them; each gets a folder named after the family and its form.
    """
    manifest = Manifest(
        concept=Concept(name="circle", kind="object"),
        method={"name": "random"},
        base=Base.from_pipeline(pipe, family=family.name),
        license="apache-2.0",
    )
    encoder = text_encoder(family, 2)
    RobustEncoder(manifest, nested_state(encoder), encoder.config.to_dict()).save_pretrained(
        folder / f"{family.name}-weights"
    )
    if family is SD1:
        for form, make in {"projection": make_projection, "delta": make_delta, "adapter": make_adapter}.items():
            make(pipe).save_pretrained(folder / f"{family.name}-{form}")


def second_encoder_of_sdxl(path: Path) -> Path:
    """Write one tensor of OpenCLIP ViT-bigG, by which ComfyUI recognises that encoder; it loads what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"text_model.encoder.layers.30.mlp.fc1.weight": torch.zeros(5120, 1280, dtype=torch.float16)}, path)
    return path
