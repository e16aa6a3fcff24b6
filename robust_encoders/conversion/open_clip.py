"""Translation between the tensor names of open_clip and transformers; open_clip stores q, k and v as one matrix."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TOP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_PARTS = ("q_proj", "k_proj", "v_proj")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a text encoder under transformers' flat names; names that open_clip does not use stay as they are.

    Args:
        tensors: Mapping of open_clip's names, without any prefix, to tensors.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        fused = _FUSED.fullmatch(name)
        if fused is None or tensor.shape[:1].numel() % 3:
            renamed[_flat_name(name)] = tensor
            continue
        layer, kind = fused.groups()
        for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):  # (3D, D) or (3D,) -> 3 times (D, D) or (D,)
            # A copy: safetensors refuses to write tensors that share storage.
            renamed[f"encoder.layers.{layer}.self_attn.{part}.{kind}"] = rows.clone()
    return renamed


def to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a text encoder under open_clip's names: the inverse of :func:`from_open_clip`.

    Args:
        tensors: Mapping of transformers' flat names to tensors; query, key and value of every layer are required.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            fused = torch.cat([tensors[name.replace("q_proj", part)] for part in _PARTS])  # (3D, D) or (3D,)
            renamed[_open_clip_name(name)] = fused
        elif ".k_proj." not in name and ".v_proj." not in name:
            renamed[_open_clip_name(name)] = tensor
    return renamed


def _flat_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None or block[2] not in _IN_BLOCK:
        return _TOP.get(name, name)
    return f"encoder.layers.{block[1]}.{_IN_BLOCK[block[2]]}.{block[3]}"


def _open_clip_name(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return {flat: theirs for theirs, flat in _TOP.items()}[name]
    if layer[2] == "self_attn.q_proj":
        return f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"
    theirs = {flat: theirs for theirs, flat in _IN_BLOCK.items()}[layer[2]]
    return f"transformer.resblocks.{layer[1]}.{theirs}.{layer[3]}"
