"""Single-file checkpoints of Stable Diffusion 1 and 2, by the names of CompVis's code, which A1111 and others look for.

The names are stated here once more, apart from those that the package uses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET, VAE, CLIP, OPEN_CLIP = (
    "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.", "cond_stage_model.model.",
)  # fmt: skip
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_IN_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def unet_name(name: str, unet: Any) -> str:
    """Return the name of a UNet's parameter in a single file."""
    stem, _, leaf = name.rpartition(".")
    if stem in _TOP:
        return f"{UNET}{_TOP[stem]}.{leaf}"
    step = unet.config.layers_per_block + 1
    if mid := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", stem):
        number = {"resnets": 2 * int(mid[2]), "attentions": 1}[mid[1]]
        return f"{UNET}middle_block.{number}.{_inside(mid[1], mid[3])}.{leaf}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", stem)
    assert found is not None, name
    side, block, part, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if part == "downsamplers":
        return f"{UNET}input_blocks.{step * (block + 1)}.0.op.{leaf}"
    if part == "upsamplers":
        attends = hasattr(unet.up_blocks[block], "attentions")
        return f"{UNET}output_blocks.{step * block + step - 1}.{2 if attends else 1}.conv.{leaf}"
    place = f"input_blocks.{step * block + layer + 1}" if side == "down" else f"output_blocks.{step * block + layer}"
    return f"{UNET}{place}.{int(part == 'attentions')}.{_inside(part, rest)}.{leaf}"


def _inside(part: str, rest: str) -> str:
    return _RESNET[rest] if part == "resnets" else rest


def vae_tensors(vae: Any) -> dict[str, Tensor]:
    """Return the tensors of a VAE under the names of a single file; linear layers of its attention are convolutions."""
    blocks, found = len(vae.config.block_out_channels), {}
    for name, tensor in vae.state_dict().items():
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        new = new.replace("conv_shortcut", "nin_shortcut").replace("group_norm", "norm").replace("to_out.0", "proj_out")
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"\.to_([qkv])\.", r".\1.", new)
        linear = "attn_1" in new and tensor.ndim == 2
        found[VAE + new] = tensor[..., None, None] if linear else tensor
    return found


def clip_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a text encoder (``text_model.*``) under the names of SD 1."""
    positions = state["text_model.embeddings.position_embedding.weight"].shape[0]
    ids = {f"{CLIP}text_model.embeddings.position_ids": torch.arange(positions)[None]}
    return {**ids, **{CLIP + name: tensor for name, tensor in state.items()}}


def open_clip_tensors(state: dict[str, Tensor], prefix: str = OPEN_CLIP) -> dict[str, Tensor]:
    """Return a text encoder (``text_model.*``) under the names of SD 2, without the last layer that it also has."""
    top = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    found = {}
    for name, tensor in state.items():
        short = name.removeprefix("text_model.")
        if short in top:
            found[prefix + top[short]] = tensor
            continue
        layer, rest, leaf = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(\w+)", short).groups()  # type: ignore[union-attr]
        block = f"{prefix}transformer.resblocks.{layer}."
        if rest in _IN_BLOCK:
            found[f"{block}{_IN_BLOCK[rest]}.{leaf}"] = tensor
        elif rest == "self_attn.q_proj":
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[f"{block}attn.in_proj_{leaf}"] = torch.cat(parts)
    return found


def tensors_of(pipe: Any, state: dict[str, Tensor], *, sd2: bool = False) -> dict[str, Tensor]:
    """Return everything that a checkpoint of a pipeline holds."""
    text = open_clip_tensors(state) if sd2 else clip_tensors(state)
    if sd2:
        width = state["text_model.final_layer_norm.weight"].shape[0]
        last = max(int(re.findall(r"layers\.(\d+)", name)[0]) for name in state if "layers." in name)
        here = {name: tensor for name, tensor in text.items() if f"resblocks.{last}." in name}
        text |= {name.replace(f"resblocks.{last}.", f"resblocks.{last + 1}."): 2 * one for name, one in here.items()}
        text |= {f"{OPEN_CLIP}logit_scale": torch.tensor(4.6), f"{OPEN_CLIP}text_projection": torch.ones(width, width)}
    unet = {unet_name(name, pipe.unet): tensor for name, tensor in pipe.unet.state_dict().items()}
    schedule = {"alphas_cumprod": torch.linspace(1, 0, 7), "betas": torch.linspace(0, 1, 7)}
    return {**text, **unet, **vae_tensors(pipe.vae), **schedule}


def save_checkpoint(tensors: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    """Write a checkpoint as users have them, with metadata of their own."""
    owned = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(owned, path, {"format": "pt", **metadata})
    return path
