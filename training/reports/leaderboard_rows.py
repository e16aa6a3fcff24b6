"""The rows of a leaderboard: an encoder with the numbers of all folders about it, and the strongest attack of each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

from ..evaluation.results import RESULTS_NAME, Evaluation, result_from_record
from ..evaluation.sanity.trust import with_recorded_checks
from ..evaluation.threat_model import EMBEDDING_TIERS, attack_of, tier_of
from ..provenance import canonical_sha256
from ..types import Result
from .plots.data import short_title
from .stored_evaluation import StoredEvaluation, WorstCaseRate, worst_case_by_text, worst_case_with_embeddings


@dataclass(frozen=True)
class RowSource:
    """The numbers of one origin that one folder holds about one encoder.

    Args:
        folder: Folder that holds the numbers.
        encoder: Identity of the encoder; the base of a kind is one encoder, an unknown encoder is its folder.
        stored: Numbers of this origin alone, with their verdicts.
        origin: ``measured`` or ``reported``.
    """

    folder: str
    encoder: str
    stored: StoredEvaluation
    origin: str

    @property
    def prompts(self) -> tuple[str, str]:
        """Concept and hash of the prompts; the hash is empty where nobody says which they were."""
        return self.stored.evaluation.concept, self._first.prompt_sha256

    @property
    def _first(self) -> Result:
        return next(iter([*self.stored.plain, *self.stored.attacks.values()]))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What an ASR depends on beside encoder and attacks: concept, detector with threshold, prompts, sampling."""
        first = self._first
        judge = f"{first.detector or 'unknown'} {first.detector_version}, threshold {first.threshold}"
        return {
            "concept": self.stored.evaluation.concept,
            "detector": judge,
            "prompts": f"{first.prompt_set or 'unknown'} ({first.n}), hash {first.prompt_sha256[:12] or 'unknown'}",
            "sampling": ", ".join(f"{k} {v}" for k, v in first.settings.get("sampling", {}).items()) or "unknown",
        }


@dataclass(frozen=True)
class LeaderboardRow:
    """One encoder under one set of conditions, with the strongest attacks that any folder holds.

    Args:
        sources: Numbers about this encoder on these prompts; the first source names the row.
    """

    sources: tuple[RowSource, ...]

    @property
    def origin(self) -> str:
        """``measured`` or ``reported``."""
        return self.sources[0].origin

    @cached_property
    def attacks(self) -> dict[str, tuple[Result, RowSource]]:
        """Label of an attack to its strongest rate, and where it stands."""
        strongest: dict[str, tuple[Result, RowSource]] = {}
        for source in self.sources:
            for label, result in source.stored.attacks.items():
                if label not in strongest or result.value > strongest[label][0].value:
                    strongest[label] = (result, source)
        return strongest

    @cached_property
    def worst(self) -> WorstCaseRate | None:
        """The worst case over all that anybody tried by text; encoders are ranked by it."""
        return worst_case_by_text(self._evaluations)

    @cached_property
    def worst_embeddings(self) -> WorstCaseRate | None:
        """The worst case over text and free embeddings; None where nobody tried embeddings."""
        return worst_case_with_embeddings(self._evaluations)

    @property
    def _evaluations(self) -> list[tuple[str, StoredEvaluation]]:
        return [(source.folder, source.stored) for source in self.sources]

    def strongest(self, tier: str) -> tuple[Result, RowSource] | None:
        """Return the strongest attack of a tier and where it stands."""
        found = [pair for pair in self.attacks.values() if tier_of(pair[0]) == tier]
        return max(found, key=lambda pair: pair[0].value, default=None)

    @cached_property
    def budget(self) -> dict[str, Any]:
        """Label to settings of each attack that a worst case counts."""
        counted = {label: r for label, (r, _) in sorted(self.attacks.items()) if tier_of(r) in EMBEDDING_TIERS}
        return {label: dict(attack_of(result)) for label, result in counted.items()}

    @property
    def group(self) -> dict[str, Any]:
        """What has to be equal before two rows may be ranked against each other."""
        # A lower bound is no better than a number that is known.
        counted = "lower bound" if self.worst is not None and not self.worst.exact else "prompt by prompt"
        bases = [base for source in self.sources if (base := base_of(source.stored.evaluation))]
        known = {"base": bases[0][:12]} if bases else {}
        about = {"origin": self.origin, **self.sources[0].conditions, **known}
        return {**about, "worst case": counted, "attacks": self.budget}

    def replaced(self) -> list[str]:
        """Return in words which weaker numbers a stronger attack has replaced."""
        lines = []
        for source in self.sources:
            own = source.stored.worst_case
            if own is not None and self.worst is not None and own.value < self.worst.value:
                title = short_title(source.stored)
                lines.append(f"{title}: {own.text} by {source.folder} is replaced by {self.worst.text}")
        return lines

    def reported_stronger(self, others: Iterable[LeaderboardRow]) -> list[str]:
        """Return in words which reported worst cases on the same encoder and prompts are above the measured ones.

        Args:
            others: Rows; only reported ones matter, and to a reported row none does.
        """
        if self.origin != "measured":
            return []
        return [line for other in others if self._same(other) for line in self._above(other)]

    def _same(self, other: LeaderboardRow) -> bool:
        mine, theirs = self.sources[0], other.sources[0]
        known = all(mine.prompts)  # prompts that nobody names are not the same
        return other.origin == "reported" and known and (mine.encoder, mine.prompts) == (theirs.encoder, theirs.prompts)

    def _above(self, other: LeaderboardRow) -> list[str]:
        mine, theirs = self.sources[0].conditions["detector"], other.sources[0].conditions["detector"]
        judged = "" if mine == theirs else f", judged by {theirs}"
        pairs = (("T0-T3", self.worst, other.worst), ("T0-T4", self.worst_embeddings, other.worst_embeddings))
        return [
            f"{short_title(self.sources[0].stored)}, {tiers}: {own.text} measured; reported stronger: {said.text} by "
            f"{other.sources[0].folder}{judged}"
            for tiers, own, said in pairs
            if own is not None and said is not None and said.value > own.value
        ]


def row_sources_of(folder: Path) -> list[RowSource]:
    """Read the numbers of a folder: an evaluation with ``results.json``, or an artifact with results in its manifest.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it holds no rate of success.
    """
    stored = (
        StoredEvaluation.read(folder) if (folder / RESULTS_NAME).is_file() or folder.is_file() else _artifact(folder)
    )
    one = stored.evaluation
    sources = []
    for origin in ("measured", "reported"):
        results = tuple(r for r in one.results if r.origin == origin)
        mine = StoredEvaluation(replace(one, results=results), stored.verdicts)
        if mine.plain or mine.attacks:
            sources.append(RowSource(str(folder), _identity(folder, one), mine, origin))
    if not sources:
        raise ValueError(f"expected rates of success (pre_asr, asr_any) in {folder}, found none; evaluate it first")
    return sources


def _artifact(folder: Path) -> StoredEvaluation:
    if not (folder / MANIFEST_NAME).is_file():
        raise FileNotFoundError(2, "no evaluation and no artifact", str(folder / RESULTS_NAME))
    manifest = Manifest.read(folder)
    results = tuple(result_from_record(record) for record in manifest.results)
    return StoredEvaluation(
        with_recorded_checks(Evaluation(str(manifest.method["name"]), manifest.concept.name, results))
    )


def _identity(folder: Path, evaluation: Evaluation) -> str:
    """Return what two folders about the same encoder have in common.

    That is the hash of the encoder's tensors: as the evaluation recorded it, or as the manifest in the folder, or in
    ``encoder`` inside it, has it. A baseline is what it describes itself as, an encoder of which nothing is known its
    folder.
    """
    subject = dict(evaluation.subject)
    if "content_sha256" in subject:
        return str(subject["content_sha256"])
    if evaluation.label == "base" or subject:
        return canonical_sha256([evaluation.label, {**subject, "base": base_of(evaluation)}])
    for place in (folder, folder / "encoder"):
        if (place / MANIFEST_NAME).is_file():
            return _contents(Manifest.read(place))
    return str(folder.resolve())


def base_of(evaluation: Evaluation) -> str:
    """Return the hash of the base that an evaluation was made on; empty where it does not say."""
    return str(evaluation.subject.get("base", {}).get("models_sha256", ""))


def _contents(manifest: Manifest) -> str:
    """Return the hash of an artifact's tensors, as an encoder in memory has it; of several files that of all."""
    found = {record.content_sha256 for record in manifest.files.values()} - {""}
    if len(found) == 1:
        return found.pop()
    return canonical_sha256({name: record.content_sha256 or record.sha256 for name, record in manifest.files.items()})


def rows_of(sources: Iterable[RowSource]) -> list[LeaderboardRow]:
    """Return one row for each encoder, origin and conditions, the lowest worst case first.

    Rows that may be ranked against each other stand together.
    """
    merged: dict[str, list[RowSource]] = {}
    for source in sources:
        merged.setdefault(canonical_sha256([source.origin, source.encoder, source.conditions]), []).append(source)
    rows = [LeaderboardRow(tuple(found)) for found in merged.values()]
    return sorted(rows, key=_order)


def _order(row: LeaderboardRow) -> tuple[Any, ...]:
    value = math.inf if row.worst is None else row.worst.value
    conditions = row.sources[0].conditions
    return row.origin, conditions["concept"], canonical_sha256(row.group), value, row.sources[0].folder
