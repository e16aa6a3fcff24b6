"""From an eraser's edit to an artifact that the loader attaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import Manifest

from .protocols import Edit, Result

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept
    from robust_encoders.encoder import RobustEncoder

    from .evaluation.results import Evaluation

LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "safetensors")
JUDGING = ("torchattacks", "torchmetrics", "nudenet")
# Metadata of a setting that was added when artifacts had been recorded without it; its default does what was done then.
LATER = {"later": True}


def describe(value: Any) -> Any:
    """Return a configuration as plain JSON values: every dataclass as ``{"name": ..., **fields}`` where it is named."""
    if is_dataclass(value) and not isinstance(value, type):
        # `fields` leaves class variables out, and an eraser's or attack's name is one.
        name = getattr(type(value), "name", None)
        named = {} if name is None else {"name": name}
        return {**named, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"expected a dataclass or plain values in a configuration, found {value!r}: it has no JSON form")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a run depends on."""
    return {name: version(name) for name in LIBRARIES}


def judging_versions() -> dict[str, str]:
    """Return the same with those libraries that only evaluations use, where they are installed."""
    return {**library_versions(), **{name: version(name) for name in JUDGING if find_spec(name)}}


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
) -> RobustEncoder:
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
    from robust_encoders.encoder import kind_of

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
    return kind_of(manifest)(manifest, edit.tensors, edit.config)


def with_results(encoder: RobustEncoder, evaluation: Evaluation) -> RobustEncoder:
    """Return the same encoder with an evaluation's numbers in its manifest, instead of those that were there.

    Numbers that the evaluation's own checks tell against carry what they say, as ``doubts`` in their settings.

    Raises:
        ValueError: The evaluation looked for another concept than the encoder erases.
    """
    erased = encoder.manifest.concept.name
    if evaluation.concept != erased:
        raise ValueError(f"expected an evaluation of {erased!r}, found one of {evaluation.concept!r}")
    records = tuple(_doubted(evaluation, result) for result in evaluation.results)
    return type(encoder)(replace(encoder.manifest, results=records), encoder.tensors, encoder.config)


def _doubted(evaluation: Evaluation, result: Result) -> dict[str, Any]:
    """Return a number with what the evaluation's checks say against it: a manifest has no place for checks."""
    from .evaluation.sanity.trust import doubts

    told = [str(check["detail"]) for check in doubts(evaluation, result)]
    record: dict[str, Any] = result.record()
    return {**record, "settings": {**record["settings"], "doubts": told}} if told else record
