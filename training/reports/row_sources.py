"""The sources of a leaderboard: the numbers about encoders in folders of evaluations and artifacts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_encoders.artifact.card_certificate import without_certificates
from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

from ..evaluation.results import RESULTS_NAME, Evaluation, result_from_record
from ..evaluation.sanity.trust import with_recorded_checks
from ..evaluation.suite import SUITE_KEY, of_version, versions_of
from ..provenance import canonical_sha256
from ..types import Result
from .stored_evaluation import StoredEvaluation


@dataclass(frozen=True)
class RowSource:
    """The numbers of one origin and suite version that one folder holds about one encoder.

    Args:
        folder: Folder that holds the numbers.
        encoder: Identity of the encoder: a hash, or the folder of an encoder of which nothing else is known.
        stored: Numbers of this origin alone, with their verdicts.
        origin: ``measured`` or ``reported``.
    """

    folder: str
    encoder: str
    stored: StoredEvaluation
    origin: str

    @property
    def version(self) -> int | None:
        """Suite version of the numbers; None for numbers that others reported."""
        return versions_of(self.stored.evaluation)[0] if self.origin == "measured" else None

    @property
    def prompts(self) -> tuple[str, str]:
        """Concept and hash of the prompts; the hash is empty if the prompts are not known."""
        return self.stored.evaluation.concept, self._first.prompt_sha256

    @property
    def _first(self) -> Result:
        return next(iter([*self.stored.plain, *self.stored.attacks.values()]))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """The conditions of a rate besides encoder and attacks: concept, detector, prompts, sampling, suite version."""
        first = self._first
        judge = f"{first.detector or 'unknown'} {first.detector_version}, threshold {first.threshold}"
        return {
            "concept": self.stored.evaluation.concept,
            "detector": judge,
            "prompts": f"{first.prompt_set or 'unknown'} ({first.n}), hash {first.prompt_sha256[:12] or 'unknown'}",
            "sampling": ", ".join(f"{k} {v}" for k, v in first.settings.get("sampling", {}).items()) or "unknown",
            SUITE_KEY: self.version,
        }


def row_sources_of(folder: Path) -> list[RowSource]:
    """Read the numbers of a folder: an evaluation with ``results.json``, or an artifact with results in its manifest.

    Raises:
        FileNotFoundError: If the folder is neither an evaluation nor an artifact.
        ValueError: If the folder holds no rate of success.
    """
    stored = stored_in(folder)
    one = stored.evaluation
    measured = [of_version(replace(one, results=_of(one, "measured")), version) for version in versions_of(one)]
    reported = replace(one, results=_of(one, "reported"))
    sources = []
    for evaluation, origin in [*((part, "measured") for part in measured), (reported, "reported")]:
        mine = StoredEvaluation(evaluation, stored.verdicts)
        if mine.plain or mine.attacks:
            sources.append(RowSource(str(folder), _identity(folder, one), mine, origin))
    if not sources:
        raise ValueError(f"expected rates of success (pre_asr, asr_any) in {folder}, found none; evaluate it first")
    return sources


def _of(evaluation: Evaluation, origin: str) -> tuple[Result, ...]:
    return tuple(result for result in evaluation.results if result.origin == origin)


def stored_in(folder: Path) -> StoredEvaluation:
    """Read all numbers of a folder: those of an evaluation, or else those in the manifest of an artifact.

    Certificates are left out, because they are no numbers of a suite.

    Args:
        folder: Folder of an evaluation or of an artifact, or a ``results.json``.

    Raises:
        FileNotFoundError: If the folder is neither an evaluation nor an artifact.
        ValueError: If the results have another schema.
        ManifestError: If the manifest is not valid.
    """
    if (folder / RESULTS_NAME).is_file() or folder.is_file():
        return StoredEvaluation.read(folder)
    if not (folder / MANIFEST_NAME).is_file():
        raise FileNotFoundError(2, "no evaluation and no artifact", str(folder / RESULTS_NAME))
    manifest = Manifest.read(folder)
    results = tuple(result_from_record(record) for record in without_certificates(manifest.results))
    return StoredEvaluation(
        with_recorded_checks(Evaluation(str(manifest.method["name"]), manifest.concept.name, results))
    )


def _identity(folder: Path, evaluation: Evaluation) -> str:
    """Return an identity that is the same for two folders about the same encoder.

    It is the hash of the encoder's tensors, as the evaluation recorded it. Otherwise it comes from the manifest in the
    folder, or in ``encoder`` inside it. The base and a baseline have a hash of their description. An encoder of which
    nothing is known is identified by its folder.
    """
    subject = dict(evaluation.subject)
    if "content_sha256" in subject:
        return str(subject["content_sha256"])
    if evaluation.label == "base" or subject:
        return canonical_sha256([evaluation.label, {**subject, "base": base_of(evaluation)}])
    for place in (folder, folder / "encoder"):
        if (place / MANIFEST_NAME).is_file():
            return contents_sha256(Manifest.read(place))
    return str(folder.resolve())


def base_of(evaluation: Evaluation) -> str:
    """Return the hash of the base of an evaluation; empty if it is not recorded."""
    return str(evaluation.subject.get("base", {}).get("models_sha256", ""))


def contents_sha256(manifest: Manifest) -> str:
    """Return the hash of an artifact's tensors, equal to that of an encoder in memory; several files have one hash."""
    found = {record.content_sha256 for record in manifest.files.values()} - {""}
    if len(found) == 1:
        return found.pop()
    return canonical_sha256({name: record.content_sha256 or record.sha256 for name, record in manifest.files.items()})
