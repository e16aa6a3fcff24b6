"""The strength of attacks where nothing was erased, taken from a finished evaluation of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...metrics.rates import rate
from ...protocols import Attack
from ...types import AttackFacts, Result
from ..jobs import Jobs
from ..plan import described
from ..results import Evaluation
from ..threat_model import EMBEDDING_TIERS
from .checks import SanityCheck, succeeds_on_base


@dataclass(frozen=True)
class AttackStrength:
    """An evaluation of the base on captions that leave the concept open.

    Args:
        evaluation: Numbers of that evaluation.
    """

    evaluation: Evaluation

    @classmethod
    def read(cls, path: Path, jobs: Jobs) -> AttackStrength:
        """Read an evaluation of the base as a measure of strength for another evaluation.

        Args:
            path: Folder of the evaluation of the base.
            jobs: Parts of the evaluation that uses the strength.

        Raises:
            ValueError: If base, concept, detector or sampling of the two evaluations differ.
        """
        found = Evaluation.read(path)
        detector = jobs.plan.detector
        wanted = {
            "subject": "base",
            "concept": jobs.plan.concept.name,
            "detector": [detector.name, detector.version, detector.threshold],
            "sampling": asdict(jobs.sampling),
            "base": jobs.base_record["models_sha256"],
        }
        first = next((r for r in found.results if r.metric == "pre_asr"), Result("", 0, 0))
        has = {
            "subject": found.label,
            "concept": found.concept,
            "detector": [first.detector, first.detector_version, first.threshold],
            "sampling": first.settings.get("sampling"),
            "base": found.subject.get("base", {}).get("models_sha256"),
        }
        if others := [f"{key} {has[key]}, not {wanted[key]}" for key in wanted if has[key] != wanted[key]]:
            raise ValueError(
                f"expected an evaluation of the same base in {path}, on captions that leave {jobs.plan.concept.name!r} "
                f"open, found {'; '.join(others)}: evaluate base with --captions open and these settings"
            )
        return cls(found)

    def checks(self, attacks: Mapping[str, Attack]) -> Iterator[SanityCheck]:
        """Yield a check for each search by text or embeddings: it must succeed on the base with the same settings."""
        for label, attack in attacks.items():
            if attack.tier in EMBEDDING_TIERS and AttackFacts.of(attack).searches:
                yield self._check(label, described(label, attack))

    def _check(self, label: str, about: Mapping[str, Any]) -> SanityCheck:
        results = [r for r in self.evaluation.results if r.settings.get("attack") == about]
        won, gained = ([r for r in results if r.metric == metric] for metric in ("asr_any", "asr_gained"))
        searched = _of_those_that_failed(won[0], gained[0]) if won and gained else None
        if searched is None:
            said = f"{label} was not measured with these settings on the base. Its strength there is not known."
            return SanityCheck("succeeds_on_base", label, False, 0.0, 0, said)
        return succeeds_on_base(searched)


def _of_those_that_failed(won: Result, gained: Result) -> Result | None:
    """Return an attack's rate among the cases that failed unattacked; None if there are none."""
    before, found = (round(r.n * share) for r, share in ((won, won.value - gained.value), (gained, gained.value)))
    failed = won.n - before
    return replace(rate(won.metric, [i < found for i in range(failed)]), settings=won.settings) if failed else None
