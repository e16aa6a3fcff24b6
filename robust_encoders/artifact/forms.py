"""The forms of an artifact, their files, and the storage of the small forms: all but whole text encoders.

The form ``weights`` is a whole text encoder. The small forms are ``adapter``, ``projection``, ``delta`` and ``eraser``;
an artifact in one of them is an overlay, which changes a part of a pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from robust_encoders.artifact import adapter_file, tensor_files
from robust_encoders.errors import IntegrityError, ManifestError
from robust_encoders.overlays.adapters import Adapter
from robust_encoders.overlays.delta import require_delta
from robust_encoders.overlays.eraser import Eraser
from robust_encoders.overlays.projection import PROJECTION_TENSOR

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
# The picture that a model card shows: the same prompts and seeds before and after attaching.
PICTURE_NAME = "before_after.png"
WEIGHTS_NAMES: Mapping[str, str] = {
    "weights": WEIGHTS_NAME,
    "adapter": "adapter.safetensors",
    "projection": "projection.safetensors",
    "delta": "delta.safetensors",
    "eraser": "eraser.safetensors",
}
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "weights": ("text_encoder", "text_encoder_2"),
    "adapter": ("text_encoder", "unet"),
    "projection": ("text_encoder",),
    "delta": ("unet",),
    "eraser": ("unet",),
}
# The component whose encoder has a projection behind its pooled vector: the second text encoder of SDXL.
PROJECTED = "text_encoder_2"
_OURS = re.compile(
    r"model\.(.*\.)?safetensors|config\.json|(adapter|projection|delta|eraser)\.safetensors|before_after\.png"
)


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
    """Return tensors and configuration of an artifact in a small form.

    Args:
        form: Form of the artifact, any but ``weights``.
        data: Bytes of the file.

    Raises:
        IntegrityError: If the bytes hold no artifact of that form.
    """
    if form == "adapter":
        adapter = adapter_file.read(data)
        return dict(adapter.tensors), adapter_config(adapter)
    tensors = tensor_files.loads(data, WEIGHTS_NAMES[form])
    require_tensors(form, tensors, {})
    return tensors, configuration(form, tensors, {})


def serialised(
    form: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], metadata: Mapping[str, str]
) -> bytes:
    """Return the bytes of the file with an artifact's tensors; equal artifacts give equal bytes.

    Args:
        form: Form of the artifact.
        tensors: Tensors of the artifact.
        config: Configuration of an adapter: its prompts, rank and alpha. The files of the other forms store none.
        metadata: Metadata of the file, see :func:`robust_encoders.artifact.provenance.metadata`.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if form == "adapter":
        return adapter_file.write_bytes(adapter_of(contiguous, config), metadata)
    return tensor_files.file_bytes(contiguous, metadata)


def require_tensors(form: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Check that tensors and configuration belong to a small form.

    Args:
        form: Form of the artifact, any but ``weights``.
        tensors: Tensors of the artifact.
        config: Configuration of the artifact.

    Raises:
        IntegrityError: If they do not; the message names the tensors.
    """
    _REQUIRE[form](tensors, config)


def configuration(form: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that an artifact in a small form keeps.

    Args:
        form: Form of the artifact, any but ``weights``.
        tensors: Tensors of the artifact, which passed :func:`require_tensors`.
        config: Configuration as given.

    Returns:
        The given configuration of an adapter; ``rank`` of an eraser, read from the shapes; empty for other forms.
    """
    if form == "eraser":
        return {"rank": Eraser(tensors).rank}
    return dict(config) if form == "adapter" else {}


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


def require_eraser(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Check that the tensors are an eraser, and that a rank in the configuration is theirs.

    Args:
        tensors: Tensors of the eraser.
        config: Configuration; an empty one is accepted, because the shapes give the rank.

    Raises:
        IntegrityError: If they are not; the message names the tensors.
    """
    eraser = Eraser(tensors)
    if config.get("rank", eraser.rank) != eraser.rank:
        raise IntegrityError(
            f"expected the rank of the tensors, {eraser.rank}, in the configuration, found {config['rank']}; leave the "
            "rank out or correct it"
        )


_REQUIRE: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], object]] = {
    "adapter": adapter_of,
    "projection": lambda tensors, _: require_projection(tensors),
    "delta": lambda tensors, _: require_delta(tensors),
    "eraser": require_eraser,
}
