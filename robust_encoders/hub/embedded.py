"""The embedded bases that come with the package: small Stable Diffusion pipelines for worlds of simple pictures."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robust_encoders.artifact.embedded_bases import EMBEDDED, REINSTALL
from robust_encoders.errors import AssetsMissingError, CompatibilityWarning
from robust_encoders.utils.broken_libraries import broken_libraries_named
from robust_encoders.utils.dtypes import dtype_or_none

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

EMBEDDED_BASES = tuple(EMBEDDED)
# Family of the default base in the manifests of its encoders.
EMBEDDED_FAMILY = EMBEDDED_BASES[0]
_INDEX = "model_index.json"


def embedded_folder(base: str) -> Path:
    """Return the folder of a base's assets: ``base``, ``encoders/<name>``, the judge and the image tower."""
    return Path(__file__).parents[1] / "assets" / base


def embedded_name(name: str | Path | None, known: Collection[str] = EMBEDDED_BASES) -> str:
    """Return the name of the embedded base that the name of a pipeline stands for; empty for any other pipeline.

    The name of an embedded base always stands for it, as the names of its encoders do. A pipeline in a folder of that
    name, relative to the working folder, is written ``./NAME``. A ``Path`` is always a folder.

    Args:
        name: Name of a pipeline; None stands for the default base.
        known: Names of the bases.
    """
    if name is None:
        return EMBEDDED_FAMILY
    return str(name) if name in known else ""


def warn_of_namesake(base: str) -> None:
    """Warn if a pipeline in the working folder has the name of an embedded base, which is taken in its place.

    Args:
        base: Name of the base.
    """
    if (Path(base) / _INDEX).is_file():
        warnings.warn(
            f"{base!r} is both an embedded base and a pipeline here; the embedded base is used. Write './{base}' for "
            "the folder.",
            CompatibilityWarning,
            stacklevel=3,
        )


def is_installed(base: str) -> bool:
    """Return True if the package holds the pipeline of an embedded base."""
    return (embedded_folder(base) / "base" / _INDEX).is_file()


def embedded_problems(base: str) -> list[str]:
    """Return the reason why the package holds no base of a name that it should hold; empty for any other name.

    Args:
        base: Name of the base.
    """
    if base not in EMBEDDED_BASES or is_installed(base):
        return []
    folder = embedded_folder(base) / "base"
    return [f"expected the embedded base in {folder}, found no {_INDEX} there; {REINSTALL}"]


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
            f"expected {name} of the embedded base {base!r} in {path.parent}, found none; {REINSTALL}"
        )
    return path


def embedded_pipeline(
    base: str = EMBEDDED_FAMILY, *, dtype: torch.dtype | str | None = None
) -> StableDiffusionPipeline:
    """Return an embedded base as a plain diffusers pipeline, on the CPU.

    The base ``shapes`` draws 32x32 pictures of shapes from prompts like ``"a red circle on a white background"``. The
    base ``emoji`` draws 64x64 pictures of things in four drawing styles from prompts like ``"a beer mug on a blue
    background"``. They are toy models: numbers measured on them say nothing about Stable Diffusion.

    Args:
        base: Name of the base: ``shapes`` or ``emoji``.
        dtype: Precision of all models of the pipeline, a dtype of torch or its name; float32 by default.

    Raises:
        ValueError: If no embedded base has that name, or ``dtype`` is no precision.
        AssetsMissingError: If the package was installed without its assets.
        BrokenLibraryError: If diffusers imports an installed library that fails.
    """
    if base not in EMBEDDED_BASES:
        raise ValueError(f"expected an embedded base, {' or '.join(EMBEDDED_BASES)}, found {base!r}")
    precision = dtype_or_none(dtype)
    if problems := embedded_problems(base):
        raise AssetsMissingError(problems[0])
    folder = embedded_folder(base) / "base"
    with broken_libraries_named():
        from diffusers import StableDiffusionPipeline

        # Without a dtype diffusers loads everything as float32, regardless of the stored dtype.
        pipe: Any = StableDiffusionPipeline.from_pretrained(folder)
    placed: StableDiffusionPipeline = pipe if precision is None else pipe.to(precision)
    return placed
