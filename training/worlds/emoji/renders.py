"""Icons as transparent pictures, rendered once and then read from one file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_encoders.artifact.owned_file import read_owned

from ...progress import ProgressBar
from .icon_sets import IconSet

LARGE = 96  # side of a rendered icon in pixels


@dataclass(frozen=True)
class Renders:
    """Rendered icons.

    Args:
        pictures: Pictures (icons, styles, 4, H, W), uint8: red, green, blue and opacity. Colours are multiplied by the
            opacity.
        codes: Code points of the icons.
        styles: Names of the drawing styles.
    """

    pictures: Tensor
    codes: tuple[str, ...]
    styles: tuple[str, ...]

    @classmethod
    def make(cls, sets: Mapping[str, IconSet], codes: Sequence[str], side: int = LARGE) -> Renders:
        """Render icons in every drawing style.

        Args:
            sets: Icon sets by drawing style.
            codes: Code points of the icons.
            side: Side of the pictures in pixels.
        """
        pictures = torch.empty((len(codes), len(sets), 4, side, side), dtype=torch.uint8)
        with ProgressBar(desc="icons", total=len(codes), disable=len(codes) < 100) as bar:
            for i, code in enumerate(codes):
                for j, icons in enumerate(sets.values()):
                    pictures[i, j] = rendered(icons.svg(code), side)
                bar.update()
        return cls(pictures, tuple(codes), tuple(sets))

    def ordered(self, codes: Sequence[str]) -> Renders:
        """Return the icons of some code points, in their order."""
        places = [self.codes.index(code) for code in codes]
        return Renders(self.pictures[places], tuple(codes), self.styles)

    def shrunk(self, n: int, side: int) -> Renders:
        """Return the first n icons with sides of at most ``side`` pixels."""
        pictures = self.pictures[:n]
        if pictures.shape[-1] > side:
            small = nn.functional.adaptive_avg_pool2d(pictures.flatten(0, 1).float(), side).round().byte()
            pictures = small.reshape(*pictures.shape[:2], *small.shape[1:])
        return Renders(pictures.contiguous(), self.codes[:n], self.styles)

    def save(self, path: Path) -> None:
        """Write the icons to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        names = json.dumps({"codes": self.codes, "styles": self.styles}).encode()
        save_file({"pictures": self.pictures, "names": torch.tensor(list(names), dtype=torch.uint8)}, aside)
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Renders:
        """Read the icons that ``save`` wrote."""
        stored = read_owned(path).tensors
        names = json.loads(bytes(stored["names"].tolist()))
        return cls(stored["pictures"], tuple(names["codes"]), tuple(names["styles"]))


def cached_renders(path: Path, sets: Mapping[str, IconSet], codes: Sequence[str], side: int = LARGE) -> Renders:
    """Load the icons at ``path``; render and store them first if there are none, or others."""
    if path.exists():
        stored = Renders.load(path)
        if (stored.codes, stored.styles, stored.pictures.shape[-1]) == (tuple(codes), tuple(sets), side):
            return stored
    made = Renders.make(sets, codes, side)
    made.save(path)
    return made


def rendered(svg: str, side: int) -> Tensor:
    """Return an SVG document as a picture (4, side, side), uint8, with colours multiplied by the opacity.

    Raises:
        ModuleNotFoundError: If resvg_py is not installed.
    """
    import resvg_py

    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), dtype=np.float32)
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=2)
    square = np.zeros((side, side, 4), dtype=np.uint8)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels.round().astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))
