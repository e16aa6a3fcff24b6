"""The configuration of a published text encoder: read from the file beside the weights, or known from the format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
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
    SDXL_L,
    Layout,
    Reading,
)
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.bounded_files import read_small
from robust_encoders.utils.home import expanded

CONFIG_NAME, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
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
    **dict.fromkeys((AUTHORS, A1111, A1111_OLD, COMFYUI, COMFYUI_SHORT, COMFYUI_SINGLE, SDXL_L), _CLIP_L),
    A1111_SD2: _SD2,
}
_OPEN_CLIP_H = {**_SD2, "num_hidden_layers": 24}
_CLIP_B = {
    **_CLIP_L, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
}  # fmt: skip
_OPEN_CLIP_G = {
    **_SD2, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
}  # fmt: skip
# Names of repositories on the Hub, in lower case and without the organisation.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "clip-vit-large-patch14": _CLIP_L,
    "clip-vit-base-patch32": _CLIP_B,
    "clip-vit-base-patch16": _CLIP_B,
    "clip-vit-l-14-laion2b-s32b-b82k": {**_CLIP_L, "hidden_act": "gelu"},
    "clip-vit-h-14-laion2b-s32b-b79k": _OPEN_CLIP_H,
    "clip-vit-bigg-14-laion2b-39b-b160k": _OPEN_CLIP_G,
    "stable-diffusion-v1-4": _CLIP_L,
    "stable-diffusion-v1-5": _CLIP_L,
    "stable-diffusion-2": _SD2,
    "stable-diffusion-2-1": _SD2,
}
_CLIP_TYPES = ("clip_text_model", "clip")
# Default values of transformers' CLIPTextConfig, the same in all supported versions.
_DEFAULTS = {**_CLIP_B, "projection_dim": 512, "pad_token_id": 1}
_FAMILIES = {(768, 12): "sd1", (1024, 23): "sd2"}
_LAYER = re.compile(rf"{re.escape(PREFIX)}encoder\.layers\.(\d+)\.")


def configuration(path: Path, given: str | Path | None, found: Reading) -> tuple[dict[str, Any], str]:
    """Return the configuration of an encoder, and its source in words.

    Args:
        path: File of weights.
        given: Path of its ``config.json`` or of the folder of one, or the name of a published encoder, a key of
            ``PUBLISHED``; None for the file beside the weights, if there is one.
        found: Text encoder that was read from the file.

    Raises:
        IntegrityError: If there is no configuration and the format does not determine it, or if it is malformed.
    """
    if given is not None:
        return _given(given, path)
    beside = [path.parent / name for name in (CONFIG_NAME, OPEN_CLIP_CONFIG) if (path.parent / name).is_file()]
    if beside and not found.layout.shared:
        return _read(beside[0]), f"{beside[0].name} beside the file"
    known = _KNOWN.get(found.layout)
    table = found.tensors.get(f"{PREFIX}embeddings.token_embedding.weight")
    if known is None or table is None or tuple(table.shape) != (known["vocab_size"], known["hidden_size"]):
        raise IntegrityError(
            f"expected a {CONFIG_NAME} beside {path}, found none that belongs to it, and the number of heads and the "
            "activation cannot be read off the shapes of the tensors; put the file there, or pass it: "
            f"`robust-encoders convert --config FILE`, or the name of a published encoder: {_candidates(table)}"
        )
    return dict(known), f"known of the format ({found.layout.name})"


def _given(given: str | Path, weights: Path) -> tuple[dict[str, Any], str]:
    place = expanded(given)
    if place.is_dir():
        place = place / CONFIG_NAME
    if place.exists():
        beside = place.resolve() == (weights.parent / place.name).resolve()
        return _read(place), f"{place.name} beside the file" if beside else f"{place.name}, as given"
    name = str(given).rsplit("/", 1)[-1].lower()
    if name in PUBLISHED:
        return dict(PUBLISHED[name]), f"{name}, by name"
    close = get_close_matches(name, PUBLISHED, n=3, cutoff=0.5)
    raise IntegrityError(
        f"expected a file or the name of a published encoder ({', '.join(PUBLISHED)}), found {str(given)!r}; "
        f"{f'did you mean {close[0]}?' if close else 'pass one of them'}"
    )


def _candidates(table: Tensor | None) -> str:
    """Return the names of the published encoders whose table of tokens has the shape of this one; all if none has."""
    shape = () if table is None else tuple(table.shape)
    return ", ".join(n for n, c in PUBLISHED.items() if (c["vocab_size"], c["hidden_size"]) == shape) or ", ".join(
        PUBLISHED
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected JSON in {path}, cannot read it: {error}; pass another file") from error
    data = data if isinstance(data, dict) else {}
    if isinstance(data.get("model_cfg"), dict):
        return _of_open_clip(data["model_cfg"], path)
    kind = data.get("model_type")
    if isinstance(data.get("text_config"), dict):  # the file configures a whole CLIP model
        # An older field of the same meaning, which transformers lets prevail.
        older = data.get("text_config_dict")
        data = {**data["text_config"], **(older if isinstance(older, dict) else {})}
    if kind is not None and kind not in _CLIP_TYPES:
        raise IntegrityError(
            f"expected the configuration of a CLIP text encoder in {path}, found one of model_type {str(kind)[:40]!r}; "
            "pass the config.json of the text encoder"
        )
    # transformers leaves out of a file what has its default value.
    return architecture({**_DEFAULTS, **{k: v for k, v in data.items() if v is not None}} if kind else data)


def _of_open_clip(model: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return transformers' configuration of the text tower that ``open_clip_config.json`` describes."""
    text = model.get("text_cfg")
    if not isinstance(text, dict) or "hf_model_name" in text or type(text.get("width")) is not int:
        raise IntegrityError(
            f"expected the configuration of a CLIP text tower in {path}, found another model's; pass the config.json "
            "of the text encoder"
        )
    ratio = text.get("mlp_ratio", 4.0)
    return architecture({
        **_TOKENS,
        "vocab_size": text.get("vocab_size", _SHAPE["vocab_size"]),
        "max_position_embeddings": text.get("context_length", _SHAPE["max_position_embeddings"]),
        "hidden_size": text["width"],
        "intermediate_size": int(text["width"] * ratio) if type(ratio) in (int, float) else None,
        "num_hidden_layers": text.get("layers"),
        "num_attention_heads": text.get("heads"),
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
    })  # fmt: skip


def family_of(config: Mapping[str, Any]) -> str:
    """Return the family of bases that use text encoders of this size, for example ``sd1``; else ``"not stated"``.

    Args:
        config: Configuration of the text encoder.
    """
    return _FAMILIES.get((config["hidden_size"], config["num_hidden_layers"]), "not stated")


def layer_numbers(names: Iterable[str]) -> set[int]:
    """Return the numbers of the layers of a text encoder.

    Args:
        names: Names of its tensors, ``text_model.*``.
    """
    return {int(match[1]) for name in names if (match := _LAYER.match(name))}


def without_last_layer(found: Reading, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors without a surplus last layer, as in SD 2, and true if there was one.

    Only open_clip's files may hold one layer more than the configuration has, which no pipeline computes. In any other
    layout the surplus layer is kept here, and the later check of the tensors refuses it.

    Args:
        found: Text encoder that was read from the file.
        config: Configuration of the text encoder.
    """
    layers = layer_numbers(found.tensors)
    last = config["num_hidden_layers"]
    if found.layout.naming != "open_clip" or layers != set(range(last + 1)):
        return found.tensors, False
    prefix = f"{PREFIX}encoder.layers.{last}."
    return {name: tensor for name, tensor in found.tensors.items() if not name.startswith(prefix)}, True
