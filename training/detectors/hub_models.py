"""Published vision models by Hub id or folder, and pictures prepared by the processor published with each model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact.fingerprint import sketch
from robust_encoders.hub.connection import unreachable

from ..provenance import canonical_sha256
from .picture_bytes import to_bytes


@dataclass(frozen=True)
class Source:
    """The location of a published model.

    Args:
        place: Hub id or folder of the model.
        revision: Branch, tag or commit of a Hub id; empty for its default branch.
    """

    place: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Return the source that ``text`` names: a folder, ``ORG/NAME`` or ``ORG/NAME@REVISION``."""
        place, _, revision = text.rpartition("@")
        return cls(text) if not place or Path(text).is_dir() else cls(place, revision)

    @property
    def name(self) -> str:
        """Hub id, or the name of the folder without its path, which does not belong in published results."""
        return Path(self.place).resolve().name if Path(self.place).is_dir() else self.place

    def load(self, kind: Any, **options: Any) -> Any:
        """Return the object that ``kind.from_pretrained`` loads from this source."""
        pinned: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        if not Path(self.place).is_dir() and unreachable():
            pinned["local_files_only"] = True  # otherwise the client tries again and again
        return kind.from_pretrained(self.place, **pinned, **options)

    def processor(self) -> Any:
        """Return the image processor with its Pillow backend.

        The published models used this backend. With it, results do not depend on an installed torchvision.
        """
        from transformers import AutoImageProcessor

        return self.load(AutoImageProcessor, backend="pil")


def pixel_values(processor: Any, images: Tensor) -> Tensor:
    """Return the model input (B, 3, h, w) for pictures (B, 3, H, W) in [0, 1], which are first rounded to bytes."""
    made: Tensor = processor(
        images=list(to_bytes(images)), return_tensors="pt", input_data_format="channels_last"
    ).pixel_values
    return made


def weights_version(model: Any, *others: Any) -> str:
    """Return 12 hexadecimal digits that identify a model's weights and other JSON values that its results depend on.

    They are the start of a hash over sketches (short summaries) of the weights and over the values ``others``.
    """
    weights = {name: one.to_dict() for name, one in sketch(model.state_dict()).items()}
    return canonical_sha256([weights, *others])[:12]


def described(processor: Any) -> dict[str, Any]:
    """Return an image processor's settings without the name of its class, which changes between releases."""
    return {key: value for key, value in processor.to_dict().items() if not key.endswith("_type")}


def parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` rows that cover ``n`` rows, in order."""
    return (slice(start, start + size) for start in range(0, n, size))
