"""The base that comes with the package: a small real Stable Diffusion of coloured shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robust_encoders.errors import AssetsMissingError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Its family: what manifests of encoders for it say.
EMBEDDED_FAMILY = "shapes"


def shapes_folder() -> Path:
    """Return the folder of everything embedded: ``base``, ``encoders/<name>``, the judge and the image tower."""
    return Path(__file__).parents[1] / "assets" / EMBEDDED_FAMILY


def embedded_pipeline(dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """Return the embedded base as a plain diffusers pipeline, on the CPU.

    It draws 32x32 pictures of shapes from prompts like ``"a red circle on a white background"``. It is a small world:
    no number measured on it is a Stable Diffusion number.

    Args:
        dtype: Precision of all its models; float32 by default.

    Raises:
        AssetsMissingError: If the package was installed without its assets.
    """
    folder = shapes_folder() / "base"
    if not (folder / "model_index.json").is_file():
        raise AssetsMissingError(
            f"expected the embedded base in {folder}, found no model_index.json there; "
            "reinstall robust-encoders from a wheel, or build it with `robust-encoders shapes build`"
        )
    from diffusers import StableDiffusionPipeline

    # Without a dtype diffusers makes everything float32, whatever it is stored in.
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder)
    placed: StableDiffusionPipeline = pipe if dtype is None else pipe.to(dtype)
    return placed
