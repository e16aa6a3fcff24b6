"""Words of a model card for an encoder that is one of the two text encoders of SDXL."""

from __future__ import annotations

from collections.abc import Mapping

from robust_encoders.artifact.forms import PROJECTED
from robust_encoders.artifact.manifest import Manifest

PARTIAL = (
    "SDXL has two text encoders. The concept stays reachable through the other one until an encoder for that slot is "
    "attached, too."
)


def one_of_two(manifest: Manifest) -> bool:
    """Return true if an artifact is one of the two text encoders of SDXL."""
    return manifest.form == "weights" and (manifest.component == PROJECTED or manifest.base.family == "sdxl")


def what(manifest: Manifest, words: Mapping[str, str]) -> str:
    """Return what an artifact is, in words.

    Args:
        manifest: Manifest of the artifact.
        words: Words for each form.
    """
    if not one_of_two(manifest):
        return words[manifest.form]
    return f"The {'second' if manifest.component == PROJECTED else 'first'} of two text encoders"


def stored(manifest: Manifest, words: Mapping[str, str]) -> str:
    """Return how an artifact is stored, in words, with the class of its text encoder.

    Args:
        manifest: Manifest of the artifact.
        words: Words for each form.
    """
    kind = "CLIPTextModelWithProjection" if manifest.component == PROJECTED else "CLIPTextModel"
    return words[manifest.form].replace("CLIPTextModel", kind)
