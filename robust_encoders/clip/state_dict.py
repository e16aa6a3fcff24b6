"""Key layouts of a CLIP text encoder: transformers' nested layout (up to 5.5) and its flat layout (from 5.6 on).

This package uses the nested layout (``text_model.*``) on disk and in memory, because published checkpoints and other
applications use it. On transformers 4.57, a file in the flat layout would silently load as a random encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.errors import IntegrityError

PREFIX = "text_model."
# Matrix behind the pooled vector of an encoder with a projection; its name is the same in both layouts.
PROJECTION = "text_projection.weight"
# All other fields of a config.json are either derived or belong to one generation of transformers.
ARCHITECTURE = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range",
    "initializer_factor", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


def nested_name(name: str) -> str:
    """Return the nested form of a tensor name in the nested or flat layout."""
    return name if name.startswith(PREFIX) or name == PROJECTION else PREFIX + name


def nested(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in the nested layout, without the position index buffer of old checkpoints.

    Args:
        tensors: Mapping of nested or flat names to tensors.

    Raises:
        IntegrityError: If a tensor occurs under its nested and its flat name.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    renamed = {nested_name(name): tensor for name, tensor in kept.items()}
    if len(renamed) < len(kept):
        twice = sorted(name for name in kept if nested_name(name) != name and nested_name(name) in kept)
        raise IntegrityError(
            f"expected every tensor once, found {len(twice)} both with and without {PREFIX!r}: "
            f"{', '.join(twice)[:4000]}; remove one of the two layouts from the file"
        )
    return renamed


def unwrapped(module: Any) -> Any:
    """Return the module inside a ``torch.compile`` wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)


def device_and_dtype(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype of a component's parameters."""
    parameter = next(unwrapped(module).parameters())
    return parameter.device, parameter.dtype


def unreadable(module: nn.Module) -> str:
    """Return in words why :func:`module_state` cannot return the weights of a component as tensors; empty if it can.

    Args:
        module: Component of a pipeline, perhaps compiled or offloaded.
    """
    module = unwrapped(module)
    if any(parameter.is_meta for parameter in module.parameters()) and not any(map(_offloads, module.modules())):
        return "weights on the meta device, which has no memory"
    packed = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
    return f"packed weights that are no tensors ({', '.join(packed[:3])})" if packed else ""


def _offloads(part: nn.Module) -> bool:
    """Return true if a hook of accelerate holds the weights of a module."""
    hook = getattr(part, "_hf_hook", None)
    return any(getattr(inner, "offload", False) for inner in getattr(hook, "hooks", [hook]))


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a component; its tensors are real even while the component is offloaded sequentially.

    Args:
        module: Component of a pipeline, perhaps compiled.
    """
    module = unwrapped(module)
    if any(parameter.is_meta for parameter in module.parameters()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        offloaded: dict[str, Tensor] = get_state_dict_offloaded_model(module)
        return offloaded
    return module.state_dict()


def nested_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a text encoder in the nested layout.

    Args:
        module: CLIP text encoder of any version of transformers, perhaps compiled or offloaded.
    """
    return nested(module_state(module))


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a text encoder's configuration that determine its computation.

    Args:
        config: Configuration in the format of ``to_dict()``, of any version of transformers.

    Raises:
        IntegrityError: If a required field, for a shape or the activation, is missing; the message names each of them.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "max_position_embeddings", "hidden_act")  # fmt: skip
    if missing := [name for name in needed if config.get(name) is None]:
        raise IntegrityError(
            f"expected a CLIP text configuration, found one without {', '.join(missing)}; "
            "pass the encoder's own config.to_dict()"
        )
    return {name: config[name] for name in ARCHITECTURE if name in config}
