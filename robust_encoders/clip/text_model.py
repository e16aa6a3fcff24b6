"""Strict construction of a plain text encoder of transformers from tensors and a configuration.

It is a ``CLIPTextModel``, or a ``CLIPTextModelWithProjection`` if the tensors have a projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import PROJECTION, architecture, nested_name
from robust_encoders.errors import IntegrityError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

# Upper limits, far above all existing text encoders. A configuration with larger values is damaged.
_MOST = {
    "vocab_size": 2**24, "hidden_size": 2**16, "intermediate_size": 2**18, "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10, "max_position_embeddings": 2**20,
}  # fmt: skip
_FRACTIONS = ("layer_norm_eps", "attention_dropout", "initializer_range", "initializer_factor")
_ACTIVATIONS = ("quick_gelu", "gelu")  # those of CLIP; transformers knows more
_TOKENS = ("projection_dim", "pad_token_id", "bos_token_id", "eos_token_id")
# The dtypes in which a text encoder computes; in float8 only a few kernels do, and none on a CPU.
COMPUTING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Number of problems that an error lists.
_SHOWN = 400
# transformers changes settings of the whole process while it loads a model, so only one thread loads at a time.
_LOADING = Lock()


def require_fit(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, finite: bool = False, projected: bool = False
) -> None:
    """Check that tensors are exactly those of the configuration's text encoder, finite and of one floating dtype.

    Args:
        tensors: Mapping of ``text_model.*`` names to tensors.
        config: Configuration of the text encoder.
        finite: True if the values are known to be finite, so that they are not checked.
        projected: True for an encoder with a projection, whose tensor then belongs to it.

    Raises:
        IntegrityError: If a tensor is missing, unexpected, misshapen or not finite; the message names each of them.
    """
    expected = _shapes(config, projected=projected)
    problems = [
        f"{name}: expected shape {expected[name]}, found none" for name in sorted(expected.keys() - tensors.keys())
    ]
    for name, tensor in sorted(tensors.items()):
        if name not in expected:
            problems.append(f"{name[:200]}: expected no such tensor, found shape {tuple(tensor.shape)}")
        elif tuple(tensor.shape) != expected[name]:
            problems.append(f"{name}: expected shape {expected[name]}, found {tuple(tensor.shape)}")
        elif tensor.dtype not in COMPUTING:
            problems.append(f"{name}: expected a floating dtype of at least 16 bits, found {tensor.dtype}")
        elif not (finite or _is_finite(tensor)):
            problems.append(f"{name}: expected finite values, found NaN or infinity")
    if len(dtypes := {str(tensor.dtype) for tensor in tensors.values()}) > 1:
        problems.append(f"expected one dtype, found {', '.join(sorted(dtypes))}")
    if problems:
        raise IntegrityError(
            f"these tensors are not a text encoder of that configuration ({len(problems)} problem(s)):\n  "
            + "\n  ".join(problems[:_SHOWN])
            + f"\n  and {len(problems) - _SHOWN} more" * (len(problems) > _SHOWN)
            + "\nuse the weights and the config.json that were saved together"
        )


def _is_finite(tensor: Tensor) -> bool:
    # A finite sum proves that all values are finite, and it needs no second tensor. Because the sum of finite values
    # may overflow, an infinite sum is checked value by value.
    total = tensor.sum(dtype=torch.float32 if tensor.element_size() < 4 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def _shapes(config: Mapping[str, Any], *, projected: bool = False) -> dict[str, tuple[int, ...]]:
    # Shapes come from formulas, not from a model: a damaged file could ask for a model of a million layers.
    config = _sensible(architecture(config), projected=projected)
    width, inner = config["hidden_size"], config["intermediate_size"]
    block = {**_norm("layer_norm1", width), **_norm("layer_norm2", width)}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        block |= _linear(f"self_attn.{part}", width, width)
    block |= {**_linear("mlp.fc1", inner, width), **_linear("mlp.fc2", width, inner)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (config["vocab_size"], width),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
        **_norm("final_layer_norm", width),
    }
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in block.items()}
    pooled = {PROJECTION: (config["projection_dim"], width)} if projected else {}
    return {nested_name(name): shape for name, shape in shapes.items()} | pooled


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _sensible(config: dict[str, Any], *, projected: bool) -> dict[str, Any]:
    """Return a configuration, or refuse one with impossible values before a model is built from it."""
    limits = {**_MOST, "projection_dim": _MOST["hidden_size"]} if projected else _MOST
    sizes = {name: config.get(name) for name in limits}
    wrong = [name for name, size in sizes.items() if type(size) is not int or not 0 < size <= limits[name]]
    if not wrong and config["hidden_size"] % config["num_attention_heads"]:
        wrong = ["num_attention_heads"]
    if not _is_activation(config["hidden_act"]):
        wrong.append("hidden_act")
    wrong += [name for name in _FRACTIONS if not _is_number(config.get(name, 0.0))]
    wrong += [name for name in _TOKENS if type(config.get(name, 0)) not in (int, type(None))]
    if wrong:
        raise IntegrityError(
            "expected the configuration of a CLIP text encoder, found "
            + ", ".join(f"{name} = {str(config.get(name))[:40]}" for name in wrong)
            + "; use the weights and the config.json that were saved together"
        )
    return config


def _is_activation(name: object) -> bool:
    if name in _ACTIVATIONS:
        return True
    from transformers.activations import ACT2FN  # takes a second or more

    return isinstance(name, str) and name in ACT2FN


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e6 < value < 1e6  # type: ignore[operator]  # a number here


def build(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Return a text encoder with its own Parameters, which share the storage of ``tensors``.

    Args:
        tensors: Mapping of ``text_model.*`` names to tensors that passed :func:`require_fit`.
        config: Configuration of the text encoder, from :func:`architecture`.
        provenance: Facts that are kept as ``config.robust_encoders``, and saved and loaded with the model.

    Raises:
        IntegrityError: If transformers did not load every tensor; by itself it would only log that.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind: Any = CLIPTextModelWithProjection if PROJECTION in tensors else CLIPTextModel
    settings: Any = CLIPTextConfig(**config)
    settings.robust_encoders = dict(provenance)
    dtype = next(iter(tensors.values())).dtype
    state, default = _at_default_dtype(tensors)
    # Built by from_pretrained, because only then does transformers 5 save the model with text_model.* keys again.
    with _LOADING:
        model, info = kind.from_pretrained(
            None, config=settings, state_dict=state, dtype=default, output_loading_info=True
        )
    if wrong := {key: names for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if (names := info[key])}:
        raise IntegrityError(f"expected transformers to load every tensor, found {wrong}; report this as a bug")
    _share(model, tensors)
    model.config.dtype = dtype
    built: CLIPTextModel | CLIPTextModelWithProjection = model
    return built


def _at_default_dtype(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], torch.dtype]:
    """Return tensors, or placeholders for them, in torch's default dtype, and that dtype.

    With tensors of another dtype, transformers would change the default dtype while it loads. That would affect the
    precision of computations in all other threads.
    """
    default = torch.get_default_dtype()
    if next(iter(tensors.values())).dtype == default:
        return dict(tensors), default
    # Each placeholder stores one number. transformers checks its shape; the real tensor replaces it afterwards.
    return {name: torch.zeros((), dtype=default).expand(tensor.shape) for name, tensor in tensors.items()}, default


def _share(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    modules = dict(model.named_modules())
    for name, parameter in list(model.named_parameters()):
        tensor = tensors[nested_name(name)]
        # transformers 5 already shares the storage, transformers 4 copies it.
        if parameter is not tensor and parameter.data_ptr() == tensor.data_ptr() and parameter.dtype == tensor.dtype:
            continue
        owner, _, leaf = name.rpartition(".")
        setattr(modules[owner], leaf, nn.Parameter(tensor.detach(), requires_grad=parameter.requires_grad))
