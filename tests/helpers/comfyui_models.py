"""What ComfyUI 0.30.0 does with a CLIP and a MODEL, stated again from its source and apart from the package.

It follows ``sd.py``, ``sd1_clip.py``, ``clip_model.py``, ``model_patcher.py`` and ``lora.py`` in the folder ``comfy``.
``studies/comfyui`` runs the package in ComfyUI itself, and finds what the tests that use this file find.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
from single_files import unet_name
from torch import Tensor, nn
from torch.nn import functional

from robust_encoders.clip.state_dict import nested_state

Patches = dict[str, list[tuple[Any, ...]]]
# Layer that is read, its index, and whether the layer's output is normalised, for each text encoder.
READS: Mapping[str, tuple[str, int | None, bool]] = {
    "sd1": ("last", None, True), "sd2": ("hidden", -2, True), "sdxl": ("hidden", -2, False),
}  # fmt: skip
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
}


class Stored(NamedTuple):
    """What a patcher puts aside."""

    weight: Tensor
    inplace_update: bool = False


def tree(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a module with parameters under dotted names; ``layers`` are a list."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleList() if part == "layers" else nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(tensor.detach().clone(), requires_grad=False))
    return root


class Patcher:
    """ComfyUI's ``ModelPatcher``: clones share the module and what was put aside, and own their patches."""

    def __init__(self, model: nn.Module, backup: dict[str, Stored] | None = None) -> None:
        self.model: Any = model
        self.backup: dict[str, Stored] = {} if backup is None else backup
        self.patches: Patches = {}
        self.patches_uuid = uuid.uuid4()
        self.hook_backup: dict[str, Any] = {}
        self.hook_patches: dict[Any, Any] = {}
        self.injections: dict[str, Any] = {}
        self.forced_hooks: Any = None

    def clone(self) -> Patcher:
        made = Patcher(self.model, self.backup)
        made.patches = {key: patches[:] for key, patches in self.patches.items()}
        made.patches_uuid = self.patches_uuid
        made.hook_patches, made.forced_hooks = dict(self.hook_patches), self.forced_hooks
        made.injections = dict(self.injections)
        return made

    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        known = self.model.state_dict()
        taken = [key for key in patches if key in known]
        for key in taken:
            entry = (strength_patch, patches[key], strength_model, None, None)
            self.patches[key] = [*self.patches.get(key, []), entry]
        self.patches_uuid = uuid.uuid4()
        return taken

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for key, weight in self.model.state_dict().items():
            if filter_prefix is None or key.startswith(filter_prefix):
                stored = self.backup[key].weight if key in self.backup else weight
                found[key] = [(stored, lambda a, **_: a), *self.patches.get(key, [])]
        return found

    def load(self) -> None:
        """Put this patcher's weights into the module, after those of the last one were taken out."""
        if getattr(self.model, "current_weight_patches_uuid", None) == self.patches_uuid:
            return
        for key, put_aside in self.backup.items():
            self._set(key, put_aside.weight)
        self.backup.clear()
        for key, patches in self.patches.items():
            weight = self.model.get_parameter(key).detach()
            self.backup[key] = Stored(weight)
            self._set(key, calculate_weight(patches, weight.float().clone()).to(weight.dtype))
        self.model.current_weight_patches_uuid = self.patches_uuid

    def _set(self, key: str, value: Tensor) -> None:
        path, _, leaf = key.rpartition(".")
        setattr(self.model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def calculate_weight(patches: list[tuple[Any, ...]], weight: Tensor) -> Tensor:
    """Apply patches of the kinds ``diff``, whose pair has no name, and ``set``, to which no strength applies."""
    for strength, value, strength_model, _, _ in patches:
        weight = weight * strength_model
        if len(value) == 1:
            weight = weight + strength * value[0].to(weight.dtype)
        else:
            assert value[0] == "set", value[0]
            weight.copy_(value[1][0])
    return weight


class Clip:
    """ComfyUI's ``CLIP`` with CLIP text encoders, each under its name, such as ``clip_l``.

    Args:
        encoders: Mapping of names to tensors ``text_model.*``, and ``text_projection.weight`` where it is read.
        config: Configuration of all of them: number of heads and activation.
        reads: Family, for the layer that is read.
        tokenizer: Tokenizer of all of them.
    """

    def __init__(
        self,
        encoders: Mapping[str, Mapping[str, Tensor]],
        config: Mapping[str, Any],
        *,
        reads: Literal["sd1", "sd2", "sdxl"] = "sd1",
        tokenizer: Any = None,
    ) -> None:
        tensors = {
            f"{name}.transformer.{key}": value for name, state in encoders.items() for key, value in state.items()
        }
        for name, state in encoders.items():
            width = len(state["text_model.final_layer_norm.weight"])
            unread = {"transformer.text_projection.weight": torch.eye(width), "logit_scale": torch.ones(())}
            tensors = {**{f"{name}.{key}": value for key, value in unread.items()}, **tensors}
        self.cond_stage_model: Any = tree(tensors)
        self.patcher = Patcher(self.cond_stage_model)
        self.tokenizer = SimpleNamespace(**{name: SimpleNamespace(tokenizer=tokenizer) for name in encoders})
        self.layer_idx: int | None = None
        self._config, self._normed = config, READS[reads][2]
        for name in encoders:
            encoder = getattr(self.cond_stage_model, name)
            encoder.options_default = (*READS[reads][:2], True)
            for layer in encoder.transformer.text_model.encoder.layers:
                layer.self_attn.heads = config["num_attention_heads"]
                layer.mlp.activation = ACTIVATIONS[config["hidden_act"]]

    def clone(self) -> Clip:
        made: Clip = object.__new__(Clip)
        made.__dict__.update(self.__dict__)
        made.patcher = self.patcher.clone()
        return made

    def clip_layer(self, index: int) -> None:
        self.layer_idx = index

    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0) -> Any:
        return self.patcher.add_patches(patches, strength_patch)

    def encode(self, ids: Tensor, name: str = "clip_l") -> Tensor:
        """Return the conditioning (B, L, D) of token ids (B, L)."""
        self.patcher.load()
        encoder = getattr(self.cond_stage_model, name)
        layer, index = encoder.options_default[:2] if self.layer_idx is None else ("hidden", self.layer_idx)
        text: Any = encoder.transformer.text_model
        x = text.embeddings.token_embedding.weight[ids] + text.embeddings.position_embedding.weight[: ids.shape[1]]
        last = len(text.encoder.layers) if layer == "last" else index % len(text.encoder.layers) + 1
        for one in list(text.encoder.layers)[:last]:
            x = x + self._attended(one.self_attn, _normed(x, one.layer_norm1))
            hidden = one.mlp.activation(_linear(_normed(x, one.layer_norm2), one.mlp.fc1))
            x = x + _linear(hidden, one.mlp.fc2)
        return _normed(x, text.final_layer_norm) if layer == "last" or self._normed else x

    def _attended(self, module: Any, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], module.heads, -1)
        parts = (getattr(module, name) for name in ("q_proj", "k_proj", "v_proj"))
        q, k, v = (_linear(x, part).view(shape).transpose(1, 2) for part in parts)  # each (B, H, L, D / H)
        made = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _linear(made.transpose(1, 2).flatten(2), module.out_proj)


def _linear(x: Tensor, module: Any) -> Tensor:
    return functional.linear(x, module.weight, module.bias)


def _normed(x: Tensor, module: Any) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], module.weight, module.bias)


def clip_of(pipe: Any, names: tuple[str, ...] = ("clip_l",), **more: Any) -> Clip:
    """Return a CLIP as ComfyUI loads it from a checkpoint of a pipeline."""
    state = nested_state(pipe.text_encoder)
    return Clip(dict.fromkeys(names, state), pipe.text_encoder.config.to_dict(), tokenizer=pipe.tokenizer, **more)


def unet_keys(pipe: Any) -> dict[str, str]:
    """Return ComfyUI's names of a UNet's tensors, by those of diffusers."""
    return {name: unet_name(name, pipe.unet).removeprefix("model.") for name in pipe.unet.state_dict()}


def model_of(pipe: Any) -> Patcher:
    """Return a MODEL as ComfyUI loads it from a checkpoint of a pipeline."""
    tensors = pipe.unet.state_dict()
    return Patcher(tree({key: tensors[name] for name, key in unet_keys(pipe).items()}))


def clip_of_sdxl(pipe: Any) -> Clip:
    """Return a CLIP as ComfyUI loads it from a checkpoint of SDXL."""
    states = {"clip_l": nested_state(pipe.text_encoder), "clip_g": nested_state(pipe.text_encoder_2)}
    return Clip(states, pipe.text_encoder.config.to_dict(), reads="sdxl", tokenizer=pipe.tokenizer)
