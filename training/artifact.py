"""Conversion of an eraser's edit into an artifact that the loader can attach."""

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
    """Return an in-memory artifact made from an edit.

    Args:
        edit: Edit that the eraser returned; its log becomes part of the recipe.
        concept: Erased concept.
        method: The eraser; the artifact records its fields.
        pipe: Pipeline that the edit was made from; it gives the fingerprints of text encoder, tokenizer and UNet.
        recipe: Further values needed to repeat the run: name, seed.
        family: Family of bases that the pipeline belongs to, for example ``shapes``.
        ids: Hub ids of the base.
        revision: Commit of the first Hub id.
        license: Licence of the weights, as an SPDX or Hub identifier.
    """
    from robust_encoders.loaded import class_of

    manifest = Manifest(
        concept=concept,
        form=edit.form,
        component=edit.component,
        method=describe(method),
        base=Base.from_pipeline(
            pipe,
            family=family,
            ids=ids,
            revision=revision,
            with_unet=True,
            component=edit.component if edit.form == "weights" else "text_encoder",
        ),
        recipe={**describe(recipe), "run": describe(edit.log)},
        versions=library_versions(),
        license=license,
    )
    return class_of(manifest)(manifest, edit.tensors, edit.config)
