"""The configuration of a published text encoder: read from the file beside the weights, or known from the format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.clip.state_dict import PREFIX, architecture
from robust_encoders.conversion.formats import (
    A1111,
    A1111_OLD,
    A1111_SD2,
    AUTHORS,
    COMFYUI,
    COMFYUI_SHORT,
    COMFYUI_SINGLE,
    Layout,
    Reading,
)
from robust_encoders.errors import IntegrityError

CONFIG_NAME = "config.json"
_TOKENS = {"bos_token_id": 49406, "eos_token_id": 49407, "layer_norm_eps": 1e-5}
_SHAPE = {"vocab_size": 49408, "max_position_embeddings": 77}
_CLIP_L = {
    **_SHAPE, **_TOKENS, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_act": "quick_gelu",
}  # fmt: skip
# SD 2 conditions on the output of layer 23 of 24, so transformers' encoder of SD 2 has only the first 23 layers.
_SD2 = {
    **_SHAPE, **_TOKENS, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu",
}  # fmt: skip
# Formats that exist for one encoder only. Other formats may hold encoders of the same shapes but with another
# activation (ViT-L/14 of OpenAI and of LAION), so their configuration cannot be guessed.
_KNOWN: Mapping[Layout, Mapping[str, Any]] = {
    **dict.fromkeys((AUTHORS, A1111, A1111_OLD, COMFYUI, COMFYUI_SHORT, COMFYUI_SINGLE), _CLIP_L),
    A1111_SD2: _SD2,
}
_FAMILIES = {(768, 12): "sd1", (1024, 23): "sd2"}
_LAYER = re.compile(rf"{re.escape(PREFIX)}encoder\.layers\.(\d+)\.")


def configuration(path: Path, given: Path | None, found: Reading) -> tuple[dict[str, Any], str]:
    """Return the configuration of an encoder, and its source in words.

    Args:
        path: File of weights.
        given: Path of its ``config.json``; None for the one beside the weights, if there is one.
        found: Text encoder that was read from the file.

    Raises:
        IntegrityError: If there is no configuration and the format does not determine it, or if it is malformed.
    """
    beside = path.parent / CONFIG_NAME
    if given is None and not found.layout.shared and beside.is_file():
        given = beside
    if given is not None:
        return _read(given), f"{given.name} beside the file" if given == beside else f"{given.name}, as given"
    known = _KNOWN.get(found.layout)
    table = found.tensors.get(f"{PREFIX}embeddings.token_embedding.weight")
    if known is None or table is None or tuple(table.shape) != (known["vocab_size"], known["hidden_size"]):
        raise IntegrityError(
            f"expected a {CONFIG_NAME} beside {path}, found none that belongs to it, and the number of heads and the "
            "activation cannot be read off the shapes of the tensors; put the file there, or pass it: "
            "`robust-encoders convert --config FILE`"
        )
    return dict(known), f"known of the format ({found.layout.name})"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected JSON in {path}, cannot read it: {error}; pass another file") from error
    if isinstance(data, dict) and isinstance(data.get("text_config"), dict):
        data = data["text_config"]  # the file configures a whole CLIP model
    return architecture(data if isinstance(data, dict) else {})


def family_of(config: Mapping[str, Any]) -> str:
    """Return the family of bases that use text encoders of this size, for example ``sd1``; else ``"not stated"``.

    Args:
        config: Configuration of the text encoder.
    """
    return _FAMILIES.get((config["hidden_size"], config["num_hidden_layers"]), "not stated")


def without_last_layer(found: Reading, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors without a surplus last layer, as in SD 2, and true if there was one.

    Only open_clip's files may hold one layer more than the configuration has, which no pipeline computes. In any other
    layout the surplus layer is kept here, and the later check of the tensors refuses it.

    Args:
        found: Text encoder that was read from the file.
        config: Configuration of the text encoder.
    """
    layers = {int(match[1]) for name in found.tensors if (match := _LAYER.match(name))}
    last = config["num_hidden_layers"]
    if found.layout.naming != "open_clip" or layers != set(range(last + 1)):
        return found.tensors, False
    prefix = f"{PREFIX}encoder.layers.{last}."
    return {name: tensor for name, tensor in found.tensors.items() if not name.startswith(prefix)}, True
