"""What folders claim about encoders, and the strongest attacks on each that anybody has claimed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_encoders.manifest import MANIFEST_NAME, Manifest

from .cells import canonical_sha256
from .charts import short_title
from .finished import TEXT_TIERS, Finished, WorstCase, attack_of, worst_case
from .protocols import Result
from .report import MISSING
from .results import RESULTS_NAME, Evaluation, result_from_record
from .verdicts import Verdict


@dataclass(frozen=True)
class Claim:
    """The numbers of one origin that one folder holds about one encoder.

    Args:
        source: The folder.
        encoder: What identifies the encoder; the base of a kind is one encoder, an unknown encoder is its folder.
        finished: Only the numbers of this origin, with their verdicts.
        origin: ``measured`` or ``reported``.
    """

    source: str
    encoder: str
    finished: Finished
    origin: str

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What an ASR depends on beside encoder and attacks: concept, detector with threshold, prompts, sampling."""
        first = next(iter([*self.finished.plain, *self.finished.attacks.values()]))
        judge = f"{first.detector or 'unknown'} {first.detector_version}, threshold {first.threshold}"
        return {
            "concept": self.finished.evaluation.concept,
            "detector": judge,
            "prompts": f"{first.prompt_set or 'unknown'} ({first.n}), hash {first.prompt_sha256[:12] or 'unknown'}",
            "sampling": ", ".join(f"{k} {v}" for k, v in first.settings.get("sampling", {}).items()) or "unknown",
        }


@dataclass(frozen=True)
class Row:
    """One encoder under one set of conditions, with the strongest attacks that anybody has claimed.

    Args:
        claims: About this encoder on these prompts; the first names the row.
    """

    claims: tuple[Claim, ...]

    @property
    def origin(self) -> str:
        """``measured`` or ``reported``."""
        return self.claims[0].origin

    @cached_property
    def attacks(self) -> dict[str, tuple[Result, Claim]]:
        """Label of an attack to its strongest rate, and who claims it."""
        strongest: dict[str, tuple[Result, Claim]] = {}
        for claim in self.claims:
            for label, result in claim.finished.attacks.items():
                if label not in strongest or result.value > strongest[label][0].value:
                    strongest[label] = (result, claim)
        return strongest

    @cached_property
    def worst(self) -> WorstCase | None:
        """The worst case over all that anybody tried by text."""
        rates: dict[str, Result] = {}
        verdicts: dict[str, tuple[Verdict, ...]] = {}
        # Whoever knows case by case first: the same numbers may also stand in a manifest, without their cases.
        for claim in sorted(self.claims, key=lambda claim: not claim.finished.verdicts):
            for label, result in claim.finished.attacks.items():
                if attack_of(result).get("tier") in TEXT_TIERS and result not in rates.values():
                    name = label if label not in rates else f"{label} ({claim.source})"
                    rates[name] = result
                    if label in claim.finished.verdicts:
                        verdicts[name] = claim.finished.verdicts[label]
        return worst_case(rates, verdicts, tuple(r for claim in self.claims for r in claim.finished.plain[:1]))

    @cached_property
    def budget(self) -> dict[str, Any]:
        """Label of an attack to its settings."""
        return {label: dict(attack_of(result)) for label, (result, _) in sorted(self.attacks.items())}

    @property
    def group(self) -> dict[str, Any]:
        """What has to be equal before two rows may be ranked against each other."""
        # A lower bound is no better than a number that is known.
        counted = "lower bound" if self.worst is not None and not self.worst.exact else "prompt by prompt"
        return {"origin": self.origin, **self.claims[0].conditions, "worst case": counted, "attacks": self.budget}

    def replaced(self) -> list[str]:
        """Return in words which weaker claims a stronger attack has replaced."""
        lines = []
        for claim in self.claims:
            own = claim.finished.worst_case
            if own is not None and self.worst is not None and own.value < self.worst.value:
                title = short_title(claim.finished)
                lines.append(f"{title}: {percent(own)} by {claim.source} is replaced by {percent(self.worst)}")
        return lines


def claims_of(folder: Path) -> list[Claim]:
    """Read the claims of a folder: an evaluation with ``results.json``, or an artifact with results in its manifest.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it holds no rate of success.
    """
    finished = Finished.read(folder) if (folder / RESULTS_NAME).is_file() or folder.is_file() else _artifact(folder)
    one = finished.evaluation
    claims = []
    for origin in ("measured", "reported"):
        results = tuple(r for r in one.results if r.origin == origin)
        mine = Finished(Evaluation(one.label, one.concept, results, one.seconds), finished.verdicts)
        if mine.plain or mine.attacks:
            claims.append(Claim(str(folder), _identity(folder, one), mine, origin))
    if not claims:
        raise ValueError(f"expected rates of success (pre_asr, asr_any) in {folder}, found none; evaluate it first")
    return claims


def _artifact(folder: Path) -> Finished:
    if not (folder / MANIFEST_NAME).is_file():
        raise FileNotFoundError(2, "no evaluation and no artifact", str(folder / RESULTS_NAME))
    manifest = Manifest.read(folder)
    results = tuple(result_from_record(record) for record in manifest.results)
    return Finished(Evaluation(str(manifest.method["name"]), manifest.concept.name, results))


def _identity(folder: Path, evaluation: Evaluation) -> str:
    """Return a hash of the encoder's tensors where its manifest lies in the folder, or in ``encoder`` inside it."""
    if evaluation.label == "base":
        return "base"
    for place in (folder, folder / "encoder"):
        if (place / MANIFEST_NAME).is_file():
            files = Manifest.read(place).files
            return canonical_sha256({name: record.content_sha256 or record.sha256 for name, record in files.items()})
    return str(folder.resolve())


def rows_of(claims: Iterable[Claim]) -> list[Row]:
    """Return one row for each encoder, origin and conditions, the lowest worst case first.

    Rows that may be ranked against each other stand together.
    """
    merged: dict[str, list[Claim]] = {}
    for claim in claims:
        merged.setdefault(canonical_sha256([claim.origin, claim.encoder, claim.conditions]), []).append(claim)
    rows = [Row(tuple(found)) for found in merged.values()]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    value = math.inf if row.worst is None else row.worst.value
    conditions = row.claims[0].conditions
    return row.origin, conditions["concept"], canonical_sha256(row.group), value, row.claims[0].source


def percent(worst: WorstCase | None) -> str:
    """Return a worst case with its interval, in per cent; a dash for what was not measured."""
    if worst is None:
        return MISSING
    bounds = "" if worst.interval is None else " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in worst.interval))
    return f"{'' if worst.exact else '≥ '}{100 * worst.value:.1f}{bounds}"
