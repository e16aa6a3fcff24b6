"""From an eraser's edit to an artifact that the loader attaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import Manifest

from .provenance import describe, library_versions
from .types import Edit

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept
    from robust_encoders.loaded import LoadedArtifact


def to_encoder(
    edit: Edit,
    *,
    concept: Concept,
    method: Any,
    pipe: Any,
    recipe: Mapping[str, Any],
    family: str,
    ids: tuple[str, ...] = (),
    revision: str = "",
    license: str = "",
) -> LoadedArtifact:
    """Return the artifact of an edit, in memory.

    Args:
        edit: What the eraser returned; its log becomes part of the recipe.
        concept: What was erased.
        method: The eraser, whose fields are recorded.
        pipe: The pipeline it was made from, for the fingerprints of text encoder, tokenizer and UNet.
        recipe: What else is needed to run it again: name, seed.
        family: Line of bases, for example ``shapes``.
        ids: Hub ids of the base.
        revision: Commit of the first of them.
        license: Of the weights, as an SPDX or Hub identifier.
    """
    from robust_encoders.loaded import class_of

    manifest = Manifest(
        concept=concept,
        form=edit.form,
        component=edit.component,
        method=describe(method),
        base=Base.from_pipeline(pipe, family=family, ids=ids, revision=revision, with_unet=True),
        recipe={**describe(recipe), "run": describe(edit.log)},
        versions=library_versions(),
        license=license,
    )
    return class_of(manifest)(manifest, edit.tensors, edit.config)
