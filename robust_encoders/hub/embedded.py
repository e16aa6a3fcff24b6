"""The embedded bases that come with the package: small Stable Diffusion pipelines for worlds of simple pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robust_encoders.errors import AssetsMissingError
from robust_encoders.utils.broken_libraries import broken_libraries_named

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Family of the default base in the manifests of its encoders.
EMBEDDED_FAMILY = "shapes"
EMBEDDED_BASES = (EMBEDDED_FAMILY, "emoji")
_REMEDIES = {
    "shapes": "reinstall robust-encoders from a wheel, or build it with `robust-encoders shapes build`",
    "emoji": "reinstall robust-encoders from a wheel, or build it with `robust-encoders emoji build`",
}


def embedded_folder(base: str) -> Path:
    """Return the folder of a base's assets: ``base``, ``encoders/<name>``, the judge and the image tower."""
    return Path(__file__).parents[1] / "assets" / base


def shapes_folder() -> Path:
    """Return the folder of the assets of the base ``shapes``."""
    return embedded_folder(EMBEDDED_FAMILY)


def remedy_of(base: str) -> str:
    """Return what to do if an embedded base is not there, for the end of an error message."""
    return _REMEDIES[base]


def embedded_file(base: str, name: str) -> Path:
    """Return the path of a file among a base's assets.

    Args:
        base: Name of the base.
        name: Name of the file inside the base's folder.

    Raises:
        AssetsMissingError: If the package was installed without it.
    """
    path = embedded_folder(base) / name
    if not path.exists():
        raise AssetsMissingError(
            f"expected {name} of the embedded base {base!r} in {path.parent}, found none; {_REMEDIES[base]}"
        )
    return path


def embedded_problems(base: str) -> list[str]:
    """Return the reason why the package holds no base of a name that it should hold; empty for any other name.

    Args:
        base: Name of the base.
    """
    if base not in EMBEDDED_BASES or (folder := _base_folder(base)).joinpath("model_index.json").is_file():
        return []
    return [f"expected the embedded base in {folder}, found no model_index.json there; {_REMEDIES[base]}"]


def _base_folder(base: str) -> Path:
    return (shapes_folder() if base == EMBEDDED_FAMILY else embedded_folder(base)) / "base"


def embedded_pipeline(base: str = EMBEDDED_FAMILY, *, dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """Return an embedded base as a plain diffusers pipeline, on the CPU.

    The base ``shapes`` draws 32x32 pictures of shapes from prompts like ``"a red circle on a white background"``. The
    base ``emoji`` draws 64x64 pictures of things in four drawing styles from prompts like ``"a beer mug on a blue
    background"``. They are toy models: numbers measured on them say nothing about Stable Diffusion.

    Args:
        base: Name of the base: ``shapes`` or ``emoji``.
        dtype: Precision of all models of the pipeline; float32 by default.

    Raises:
        ValueError: If no embedded base has that name.
        AssetsMissingError: If the package was installed without its assets.
        BrokenLibraryError: If diffusers imports an installed library that fails.
    """
    if base not in EMBEDDED_BASES:
        raise ValueError(f"expected an embedded base, {' or '.join(EMBEDDED_BASES)}, found {base!r}")
    if problems := embedded_problems(base):
        raise AssetsMissingError(problems[0])
    folder = _base_folder(base)
    with broken_libraries_named():
        from diffusers import StableDiffusionPipeline

        # Without a dtype diffusers loads everything as float32, regardless of the stored dtype.
        pipe: Any = StableDiffusionPipeline.from_pretrained(folder)
    placed: StableDiffusionPipeline = pipe if dtype is None else pipe.to(dtype)
    return placed
