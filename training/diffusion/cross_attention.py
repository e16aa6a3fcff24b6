"""Statistics of a UNet's cross-attention that a closed-form edit needs, computed once and cached."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.utils.home import expanded, write_atomically

logger = logging.getLogger(__name__)
FOLDER = "statistics"


@dataclass(frozen=True)
class GramMatrix:
    """The sum of W^T W over all cross-attention K and V matrices W of a UNet.

    Args:
        gram: Matrix G (D, D) in float64, on the CPU.
        key: Content hash of the K and V matrices; ``gram`` depends on nothing else.
    """

    gram: Tensor
    key: str

    @classmethod
    def of(cls, unet: nn.Module, cache_dir: str | Path | None = None) -> GramMatrix:
        """Return the statistics of a UNet, from the cache if it holds them.

        If a cached file is damaged or belongs to other matrices, a warning is logged, and the statistics are computed
        and written again.

        Args:
            unet: UNet with cross-attention.
            cache_dir: Cache folder; its subfolder ``statistics`` holds one file per set of matrices. None caches
                nothing.

        Raises:
            ValueError: The K and V matrices of the UNet cannot be identified; see
                :func:`robust_encoders.overlays.projection.key_value_layers`.
        """
        weights = {name: layer.weight for name, layer in key_value_layers(unet).items()}
        key = content_sha256(weights)
        path = None if cache_dir is None else expanded(cache_dir) / FOLDER / f"{key}.safetensors"
        if path is not None and (kept := _read(path, key, weights)) is not None:
            return cls(kept, key)
        gram = _gram(weights)
        if path is not None:
            parts = {"gram": gram, **_marks(gram, key)}
            write_atomically(path, save(parts, metadata={"format": "pt"}))
        return cls(gram, key)


@torch.no_grad()
def _gram(weights: dict[str, Tensor]) -> Tensor:
    exact = [weight.detach().to("cpu", torch.float64) for weight in weights.values()]
    return torch.stack([w.T @ w for w in exact]).sum(0)


def _marks(gram: Tensor, key: str) -> dict[str, Tensor]:
    """Return the marks that identify a file: the key of the matrices and a hash of their statistics."""
    texts = {"key": key, "sha256": content_sha256({"gram": gram})}
    return {name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in texts.items()}


def _read(path: Path, key: str, weights: dict[str, Tensor]) -> Tensor | None:
    if not path.is_file():
        return None
    width = next(iter(weights.values())).shape[1]
    try:
        found = read_owned(path).tensors
    except IntegrityError as error:
        logger.warning("cannot read %s (%s); computing the statistics again", path, error)
        return None
    gram = found.get("gram")
    if gram is None or gram.dtype != torch.float64 or tuple(gram.shape) != (width, width):
        logger.warning("%s holds no statistics of width %d; computing them again", path, width)
        return None
    if any(name not in found or not torch.equal(found[name], mark) for name, mark in _marks(gram, key).items()):
        logger.warning("%s holds statistics of another UNet, or is damaged; computing them again", path)
        return None
    return gram
