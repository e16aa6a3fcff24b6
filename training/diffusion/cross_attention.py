"""What a closed-form edit needs of a base's UNet, computed once and kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.utils.home import write_atomically

logger = logging.getLogger(__name__)
FOLDER = "statistics"


@dataclass(frozen=True)
class GramMatrix:
    """The sum of W^T W over the cross-attention K and V of a UNet.

    Args:
        gram: G (D, D), float64, on the CPU.
        key: Content hash of the K and V matrices, on which alone it depends.
    """

    gram: Tensor
    key: str

    @classmethod
    def of(cls, unet: nn.Module, cache_dir: Path | None = None) -> GramMatrix:
        """Return those of a UNet, from the cache if they are there.

        A file that is damaged or of other matrices is logged, and replaced by what is computed anew.

        Args:
            unet: Any with cross-attention.
            cache_dir: Its folder ``statistics`` keeps one file for each set of matrices; None keeps nothing.

        Raises:
            ValueError: The UNet's K and V cannot be told; see
                :func:`robust_encoders.overlays.projection.key_value_layers`.
        """
        weights = {name: layer.weight for name, layer in key_value_layers(unet).items()}
        key = content_sha256(weights)
        path = None if cache_dir is None else cache_dir / FOLDER / f"{key}.safetensors"
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
    """Return what a file says of itself: whose statistics it holds, and a hash of them."""
    texts = {"key": key, "sha256": content_sha256({"gram": gram})}
    return {name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in texts.items()}


def _read(path: Path, key: str, weights: dict[str, Tensor]) -> Tensor | None:
    if not path.is_file():
        return None
    width = next(iter(weights.values())).shape[1]
    try:
        found = load_file(str(path))
    except (SafetensorError, OSError) as error:
        logger.warning("cannot read %s (%s); computing it anew", path, error)
        return None
    gram = found.get("gram")
    if gram is None or gram.dtype != torch.float64 or tuple(gram.shape) != (width, width):
        logger.warning("%s holds no statistics of width %d; computing them anew", path, width)
        return None
    if any(name not in found or not torch.equal(found[name], mark) for name, mark in _marks(gram, key).items()):
        logger.warning("%s holds statistics of another UNet, or damaged ones; computing them anew", path)
        return None
    return gram
