"""The forms of an artifact (weights, adapter, projection), their files, and the storage of adapters and projections.

Adapters and projections are called the small forms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.artifact import adapter_file
from robust_encoders.errors import IntegrityError, ManifestError
from robust_encoders.overlays.adapters import Adapter
from robust_encoders.overlays.projection import PROJECTION_TENSOR

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_NAMES: Mapping[str, str] = {
    "weights": WEIGHTS_NAME,
    "adapter": "adapter.safetensors",
    "projection": "projection.safetensors",
}
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "weights": ("text_encoder",),
    "adapter": ("text_encoder", "unet"),
    "projection": ("text_encoder",),
}
_OURS = re.compile(r"model\.(.*\.)?safetensors|config\.json|(adapter|projection)\.safetensors")


def weights_name(form: str, variant: str | None = None) -> str:
    """Return the name of the file with an artifact's tensors.

    Args:
        form: Form of the artifact.
        variant: Name of a variant, for example ``fp16`` for ``model.fp16.safetensors``; only whole text encoders have
            variants.

    Raises:
        ManifestError: If this version cannot read that form, or the form has no variants.
    """
    if form not in WEIGHTS_NAMES:
        raise ManifestError(
            f"expected form {', '.join(map(repr, WEIGHTS_NAMES))}, found form {form!r}: this version cannot attach it; "
            "upgrade robust_encoders"
        )
    if variant is None:
        return WEIGHTS_NAMES[form]
    if form != "weights":
        raise ManifestError(f"expected no variant of form {form!r}, found {variant!r}; leave the variant out")
    return f"model.{variant}.safetensors"


def file_names(form: str, variant: str | None = None) -> tuple[str, ...]:
    """Return the names of an artifact's files without manifest and card; for errors, see :func:`weights_name`."""
    weights = weights_name(form, variant)
    return (CONFIG_NAME, weights) if form == "weights" else (weights,)


def is_replaced(name: str) -> bool:
    """Return true if saving another artifact into a folder replaces or removes a file of this name."""
    return _OURS.fullmatch(name) is not None


def parsed(form: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and configuration of an adapter or a projection.

    Args:
        form: Form of the artifact, ``adapter`` or ``projection``.
        data: Bytes of the file.

    Raises:
        IntegrityError: If the bytes hold no artifact of that form.
    """
    if form == "adapter":
        adapter = adapter_file.read(data)
        return dict(adapter.tensors), adapter_config(adapter)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors, found something else: {str(error)[:300]}") from error
    require_projection(tensors)
    return tensors, {}


def serialised(form: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file of an adapter or a projection; equal artifacts give equal bytes.

    Args:
        form: Form of the artifact, ``adapter`` or ``projection``.
        tensors: Tensors of the artifact.
        config: Configuration of an adapter: its prompts, rank and alpha.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if form == "adapter":
        return adapter_file.write_bytes(adapter_of(contiguous, config))
    return safetensors.torch.save(contiguous, metadata={"format": "pt"})


def adapter_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """Return the adapter with an artifact's tensors and configuration.

    Raises:
        IntegrityError: If tensors and configuration do not belong together.
    """
    try:
        prompts, rank, alpha = tuple(config["prompts"]), int(config["rank"]), float(config["alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"expected prompts, rank and alpha in the configuration of an adapter, found {dict(config)}; "
            "load the adapter again"
        ) from error
    return Adapter(tensors, prompts, rank, alpha)


def adapter_config(adapter: Adapter) -> dict[str, Any]:
    """Return the configuration of an adapter, its prompts, rank and alpha, as JSON values."""
    return {"prompts": list(adapter.prompts), "rank": adapter.rank, "alpha": adapter.alpha}


def require_projection(tensors: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a projection are one finite square matrix.

    Raises:
        IntegrityError: If they are not one such matrix.
    """
    matrix = tensors.get(PROJECTION_TENSOR)
    square = matrix is not None and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    fine = square and matrix is not None and matrix.is_floating_point() and bool(torch.isfinite(matrix).all())
    if not fine or len(tensors) > 1:
        found = ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
        raise IntegrityError(
            f"expected one finite square matrix named {PROJECTION_TENSOR!r}, found {found or 'no tensors'}; "
            "make the artifact again"
        )
