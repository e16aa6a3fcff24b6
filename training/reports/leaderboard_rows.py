"""What folders claim about encoders, and the strongest attacks on each that anybody has claimed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

from ..evaluation.results import RESULTS_NAME, Evaluation, result_from_record
from ..evaluation.sanity.trust import with_recorded_checks
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS, attack_of, tier_of
from ..provenance import canonical_sha256
from ..types import Result, Verdict
from .plots.data import short_title
from .stored_evaluation import StoredEvaluation, WorstCase, worst_case


@dataclass(frozen=True)
class RowSource:
    """The numbers of one origin that one folder holds about one encoder.

    Args:
        source: The folder.
        encoder: What identifies the encoder; the base of a kind is one encoder, an unknown encoder is its folder.
        finished: Only the numbers of this origin, with their verdicts.
        origin: ``measured`` or ``reported``.
    """

    source: str
    encoder: str
    finished: StoredEvaluation
    origin: str

    @property
    def prompts(self) -> tuple[str, str]:
        """Concept and hash of the prompts; the hash is empty where nobody says which they were."""
        return self.finished.evaluation.concept, self._first.prompt_sha256

    @property
    def _first(self) -> Result:
        return next(iter([*self.finished.plain, *self.finished.attacks.values()]))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What an ASR depends on beside encoder and attacks: concept, detector with threshold, prompts, sampling."""
        first = self._first
        judge = f"{first.detector or 'unknown'} {first.detector_version}, threshold {first.threshold}"
        return {
            "concept": self.finished.evaluation.concept,
            "detector": judge,
            "prompts": f"{first.prompt_set or 'unknown'} ({first.n}), hash {first.prompt_sha256[:12] or 'unknown'}",
            "sampling": ", ".join(f"{k} {v}" for k, v in first.settings.get("sampling", {}).items()) or "unknown",
        }


@dataclass(frozen=True)
class LeaderboardRow:
    """One encoder under one set of conditions, with the strongest attacks that anybody has claimed.

    Args:
        claims: About this encoder on these prompts; the first names the row.
    """

    claims: tuple[RowSource, ...]

    @property
    def origin(self) -> str:
        """``measured`` or ``reported``."""
        return self.claims[0].origin

    @cached_property
    def attacks(self) -> dict[str, tuple[Result, RowSource]]:
        """Label of an attack to its strongest rate, and who claims it."""
        strongest: dict[str, tuple[Result, RowSource]] = {}
        for claim in self.claims:
            for label, result in claim.finished.attacks.items():
                if label not in strongest or result.value > strongest[label][0].value:
                    strongest[label] = (result, claim)
        return strongest

    @cached_property
    def worst(self) -> WorstCase | None:
        """The worst case over all that anybody tried by text; encoders are ranked by it."""
        return self._worst("worst_case", TEXT_TIERS)

    @cached_property
    def worst_embeddings(self) -> WorstCase | None:
        """The worst case over text and free embeddings; None where nobody tried embeddings."""
        tried = any(tier_of(result) == "T4" for result, _ in self.attacks.values())
        recorded = any(claim.finished.recorded("worst_case_embeddings") for claim in self.claims)
        return self._worst("worst_case_embeddings", EMBEDDING_TIERS) if tried or recorded else None

    def _worst(self, metric: str, tiers: Collection[str]) -> WorstCase | None:
        rates, verdicts = self._tried(tiers)
        counted = worst_case(rates, verdicts, tuple(r for claim in self.claims for r in claim.finished.plain[:1]))
        recorded = [(claim, worst) for claim in self.claims if (worst := claim.finished.recorded(metric)) is not None]
        for claim, worst in recorded:
            if all(result in claim.finished.attacks.values() for result in rates.values()):
                return worst  # nobody else tried anything else
        if counted is not None and counted.exact and set(counted.labels) == set(rates):
            return counted
        # Which prompts fall to one attack and which to another is not known: at least the largest of what is known.
        known = [*(worst for _, worst in recorded), *([counted] if counted is not None else [])]
        best = max(known, key=lambda worst: worst.value, default=None)
        return None if best is None else replace(best, interval=best.interval if not recorded else None)

    def _tried(self, tiers: Collection[str]) -> tuple[dict[str, Result], dict[str, tuple[Verdict, ...]]]:
        """Return every different attack of these tiers under a name of its own, and the verdicts that are known."""
        rates: dict[str, Result] = {}
        verdicts: dict[str, tuple[Verdict, ...]] = {}
        # Whoever knows case by case first: the same numbers may also stand in a manifest, without their cases.
        for claim in sorted(self.claims, key=lambda claim: not claim.finished.verdicts):
            for label, result in claim.finished.attacks.items():
                if tier_of(result) in tiers and result not in rates.values():
                    name = label if label not in rates else f"{label} ({claim.source})"
                    rates[name] = result
                    if label in claim.finished.verdicts:
                        verdicts[name] = claim.finished.verdicts[label]
        return rates, verdicts

    def strongest(self, tier: str) -> tuple[Result, RowSource] | None:
        """Return the strongest attack of a tier and who claims it."""
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
        bases = [base for claim in self.claims if (base := base_of(claim.finished.evaluation))]
        known = {"base": bases[0][:12]} if bases else {}
        about = {"origin": self.origin, **self.claims[0].conditions, **known}
        return {**about, "worst case": counted, "attacks": self.budget}

    def replaced(self) -> list[str]:
        """Return in words which weaker claims a stronger attack has replaced."""
        lines = []
        for claim in self.claims:
            own = claim.finished.worst_case
            if own is not None and self.worst is not None and own.value < self.worst.value:
                title = short_title(claim.finished)
                lines.append(f"{title}: {own.text} by {claim.source} is replaced by {self.worst.text}")
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
        mine, theirs = self.claims[0], other.claims[0]
        known = all(mine.prompts)  # prompts that nobody names are not the same
        return other.origin == "reported" and known and (mine.encoder, mine.prompts) == (theirs.encoder, theirs.prompts)

    def _above(self, other: LeaderboardRow) -> list[str]:
        mine, theirs = self.claims[0].conditions["detector"], other.claims[0].conditions["detector"]
        judged = "" if mine == theirs else f", judged by {theirs}"
        pairs = (("T0-T3", self.worst, other.worst), ("T0-T4", self.worst_embeddings, other.worst_embeddings))
        return [
            f"{short_title(self.claims[0].finished)}, {tiers}: {own.text} measured; reported stronger: {said.text} by "
            f"{other.claims[0].source}{judged}"
            for tiers, own, said in pairs
            if own is not None and said is not None and said.value > own.value
        ]


def row_sources_of(folder: Path) -> list[RowSource]:
    """Read the claims of a folder: an evaluation with ``results.json``, or an artifact with results in its manifest.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it holds no rate of success.
    """
    finished = (
        StoredEvaluation.read(folder) if (folder / RESULTS_NAME).is_file() or folder.is_file() else _artifact(folder)
    )
    one = finished.evaluation
    claims = []
    for origin in ("measured", "reported"):
        results = tuple(r for r in one.results if r.origin == origin)
        mine = StoredEvaluation(replace(one, results=results), finished.verdicts)
        if mine.plain or mine.attacks:
            claims.append(RowSource(str(folder), _identity(folder, one), mine, origin))
    if not claims:
        raise ValueError(f"expected rates of success (pre_asr, asr_any) in {folder}, found none; evaluate it first")
    return claims


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


def rows_of(claims: Iterable[RowSource]) -> list[LeaderboardRow]:
    """Return one row for each encoder, origin and conditions, the lowest worst case first.

    Rows that may be ranked against each other stand together.
    """
    merged: dict[str, list[RowSource]] = {}
    for claim in claims:
        merged.setdefault(canonical_sha256([claim.origin, claim.encoder, claim.conditions]), []).append(claim)
    rows = [LeaderboardRow(tuple(found)) for found in merged.values()]
    return sorted(rows, key=_order)


def _order(row: LeaderboardRow) -> tuple[Any, ...]:
    value = math.inf if row.worst is None else row.worst.value
    conditions = row.claims[0].conditions
    return row.origin, conditions["concept"], canonical_sha256(row.group), value, row.claims[0].source
