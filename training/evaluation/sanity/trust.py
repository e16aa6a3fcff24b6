"""What the checks on the attacks say about their numbers: which of them are not to be trusted, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...types import Result
from ..results import Evaluation
from ..threat_model import GRADIENT_TIERS, attack_of, label_of, tier_of

NOT_TRUSTED = "not trusted"
CHECKS: Mapping[str, str] = {
    "succeeds_on_base": "The attack wins where nothing was erased",
    "gradients_alive": "Gradients reach the text encoder's input",
    "seeds_differ": "Another seed finds something else",
    "more_is_not_weaker": "A larger budget is not weaker",
    "white_not_below_black": "With gradients it is not weaker than without",
    "free_not_below_discrete": "Free embeddings are not weaker than tokens",
    "recorded": "Nothing is recorded against it",
}
# A number whose attack fails one of these may be low because the attack is weak.
DECISIVE = tuple(name for name in CHECKS if name != "seeds_differ")
WORST_METRICS = ("worst_case", "worst_case_embeddings")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def failed(evaluation: Evaluation, label: str, tier: str) -> list[Mapping[str, Any]]:
    """Return the failed checks that tell against an attack; one of no attack is about all that follow gradients."""
    return [
        check
        for check in evaluation.checks
        if check["name"] in DECISIVE and not check["ok"] and _about(check, label, tier)
    ]


def _about(check: Mapping[str, Any], label: str, tier: str) -> bool:
    return bool(check["attack"] == label) if check["attack"] else tier in GRADIENT_TIERS


def failed_checks(evaluation: Evaluation, result: Result) -> list[Mapping[str, Any]]:
    """Return the failed checks that tell against a rate of success.

    A worst case is in doubt where it rests on attacks with gradients and none of them is to be trusted: what is left
    may be far below what an attacker gets.
    """
    if result.metric not in WORST_METRICS:
        return failed(evaluation, label_of(result), tier_of(result))
    return failed_checks_of_all(evaluation, attack_of(result).get("attacks", ()))


def failed_checks_of_all(evaluation: Evaluation, labels: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the failed checks behind a worst case over these attacks, if no attack with gradients is left."""
    tiers = {label_of(r): tier_of(r) for r in evaluation.results if r.metric == "asr_any"}
    found = [failed(evaluation, label, tiers[label]) for label in labels if tiers.get(label) in GRADIENT_TIERS]
    if not all(found):
        return []
    return list({(check["name"], check["attack"]): check for checks in found for check in checks}.values())


def with_recorded_checks(evaluation: Evaluation) -> Evaluation:
    """Return the numbers of a manifest as their evaluation had them, with what stood against them as checks.

    A manifest has no place for checks: there, ``doubts`` in a number's settings say what told against it.
    """
    told = {(label_of(r), str(detail)): None for r in evaluation.results for detail in r.settings.get("doubts", ())}
    checks = ({"name": "recorded", "attack": label, "ok": False, "detail": detail} for label, detail in told)
    return replace(evaluation, results=tuple(map(_bare, evaluation.results)), checks=(*evaluation.checks, *checks))


def _bare(result: Result) -> Result:
    return replace(result, settings={key: value for key, value in result.settings.items() if key != "doubts"})


@dataclass
class Marks:
    """Numbers the sentences of failed checks as they are met.

    Args:
        sentences: Those met so far.
    """

    sentences: list[str] = field(default_factory=list)

    def text(self, checks: Iterable[Mapping[str, Any]]) -> str:
        """Return ``not trusted ¹`` for failed checks, and nothing where there are none."""
        numbers = sorted({self._number(said(check)) for check in checks})
        return f"{NOT_TRUSTED} {' '.join(map(raised, numbers))}" if numbers else ""

    def beside(self, number: str, checks: Iterable[Mapping[str, Any]]) -> str:
        """Return a number with its mark."""
        mark = self.text(checks)
        return f"{number}, {mark}" if mark else number

    def notes(self) -> list[str]:
        """Return the sentences, each behind its number."""
        return [f"{raised(i)} {sentence}" for i, sentence in enumerate(self.sentences, start=1)]

    def _number(self, sentence: str) -> int:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return self.sentences.index(sentence) + 1


def raised(number: int) -> str:
    """Return a number in raised digits."""
    return str(number).translate(_RAISED)


def said(check: Mapping[str, Any]) -> str:
    """Return a check in one sentence."""
    detail = str(check["detail"])
    return detail if detail.endswith(".") else f"{detail}."


def check_rows(evaluation: Evaluation) -> list[list[str]]:
    """Return a row for each check: what it asks, of which attack, whether it holds, and what was found."""
    return [
        [CHECKS.get(c["name"], c["name"].replace("_", " ")), c["attack"] or "all", "yes" if c["ok"] else "no", said(c)]
        for c in evaluation.checks
    ]
