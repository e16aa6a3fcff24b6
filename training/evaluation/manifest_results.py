"""The numbers of an evaluation in the manifest of the evaluated encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.card_certificate import is_certificate

from ..types import Result
from .results import Evaluation
from .sanity.trust import failed_checks

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact


def with_results(encoder: LoadedArtifact, evaluation: Evaluation) -> LoadedArtifact:
    """Return the same encoder with an evaluation's numbers in its manifest; they replace the earlier numbers.

    Certificates stay: they are no numbers of an evaluation.

    If checks of the evaluation failed for a number, the settings of the number hold their texts as ``doubts``.

    Raises:
        ValueError: If the evaluation is about another concept than the encoder.
    """
    erased = encoder.manifest.concept.name
    if evaluation.concept != erased:
        raise ValueError(f"expected an evaluation of {erased!r}, found one of {evaluation.concept!r}")
    records = tuple(_with_failed_checks(evaluation, result) for result in evaluation.results)
    certificates = (record for record in encoder.manifest.results if is_certificate(record))
    return type(encoder)(replace(encoder.manifest, results=(*records, *certificates)), encoder.tensors, encoder.config)


def _with_failed_checks(evaluation: Evaluation, result: Result) -> dict[str, Any]:
    """Return a number with the texts of its failed checks, because a manifest has no field for checks."""
    told = [str(check["detail"]) for check in failed_checks(evaluation, result)]
    record: dict[str, Any] = result.record()
    return {**record, "settings": {**record["settings"], "doubts": told}} if told else record
