"""The embedded base that comes with the package: a small Stable Diffusion pipeline that draws coloured shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robust_encoders.errors import AssetsMissingError
from robust_encoders.utils.broken_libraries import broken_libraries_named

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Family of the embedded base in the manifests of its encoders.
EMBEDDED_FAMILY = "shapes"


def shapes_folder() -> Path:
    """Return the folder of the embedded assets: ``base``, ``encoders/<name>``, the classifier and the image encoder."""
    return Path(__file__).parents[1] / "assets" / EMBEDDED_FAMILY


def embedded_pipeline(dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """Return the embedded base as a plain diffusers pipeline, on the CPU.

    It draws 32x32 pictures of shapes from prompts like ``"a red circle on a white background"``. It is a toy model:
    numbers measured on it say nothing about Stable Diffusion.

    Args:
        dtype: Precision of all models of the pipeline; float32 by default.

    Raises:
        AssetsMissingError: If the package was installed without its assets.
        BrokenLibraryError: If diffusers imports an installed library that fails.
    """
    folder = shapes_folder() / "base"
    if not (folder / "model_index.json").is_file():
        raise AssetsMissingError(
            f"expected the embedded base in {folder}, found no model_index.json there; "
            "reinstall robust-encoders from a wheel, or build it with `robust-encoders shapes build`"
        )
    with broken_libraries_named():
        from diffusers import StableDiffusionPipeline

        # Without a dtype diffusers loads everything as float32, regardless of the stored dtype.
        pipe: Any = StableDiffusionPipeline.from_pretrained(folder)
    placed: StableDiffusionPipeline = pipe if dtype is None else pipe.to(dtype)
    return placed
