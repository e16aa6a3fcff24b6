"""Published picture models by Hub id or folder, and pictures prepared as their authors' own processor does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact.fingerprint import sketch

from ..provenance import canonical_sha256
from .picture_bytes import to_bytes


@dataclass(frozen=True)
class Source:
    """Where a published model lies.

    Args:
        place: Hub id or folder.
        revision: Branch, tag or commit of a Hub id; empty for its default branch.
    """

    place: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read a folder, ``ORG/NAME`` or ``ORG/NAME@REVISION``."""
        place, _, revision = text.rpartition("@")
        return cls(text) if not place or Path(text).is_dir() else cls(place, revision)

    @property
    def name(self) -> str:
        """The Hub id, or the folder's own name: where it lies on a disk concerns nobody."""
        return Path(self.place).resolve().name if Path(self.place).is_dir() else self.place

    def load(self, kind: Any, **options: Any) -> Any:
        """Return ``kind.from_pretrained`` of this place."""
        pinned = {"revision": self.revision} if self.revision else {}
        return kind.from_pretrained(self.place, **pinned, **options)

    def processor(self) -> Any:
        """Return the image processor on its Pillow backend: the published ones were, and no torchvision decides."""
        from transformers import AutoImageProcessor

        return self.load(AutoImageProcessor, backend="pil")


def pixel_values(processor: Any, images: Tensor) -> Tensor:
    """Return what a model sees (B, 3, h, w) of pictures (B, 3, H, W) in [0, 1], which are rounded to bytes first."""
    made: Tensor = processor(
        images=list(to_bytes(images)), return_tensors="pt", input_data_format="channels_last"
    ).pixel_values
    return made


def weights_version(model: Any, *others: Any) -> str:
    """Return 12 digits of a hash of sketches of a model's weights and of other JSON values its results depend on."""
    weights = {name: one.to_dict() for name, one in sketch(model.state_dict()).items()}
    return canonical_sha256([weights, *others])[:12]


def described(processor: Any) -> dict[str, Any]:
    """Return an image processor's settings without its class, whose name changes from release to release."""
    return {key: value for key, value in processor.to_dict().items() if not key.endswith("_type")}


def parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` of ``n`` rows, in order."""
    return (slice(start, start + size) for start in range(0, n, size))
