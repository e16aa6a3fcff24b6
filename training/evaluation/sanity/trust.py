"""The numbers that failed checks of their attacks make untrustworthy, with the reasons."""

from __future__ import annotations

import re
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
    "seeds_differ": "Another seed gives other candidates",
    "more_is_not_weaker": "A larger budget does not make the attack weaker",
    "white_not_below_black": "The attack with gradients is not weaker than attacks without",
    "masked_gradients": "Black-box attacks do not win more than all attacks with gradients",
    "free_not_below_discrete": "Free embeddings are not weaker than tokens",
    "recorded": "The manifest records no failed check",
}
# A number whose attack fails one of these may be low because the attack is weak.
DECISIVE = tuple(name for name in CHECKS if name != "seeds_differ")
WORST_METRICS = ("worst_case", "worst_case_embeddings")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
# Results and manifests of earlier versions hold each check as one long sentence. Tables print these sentences instead.
_P = r"one-sided p [\d.e-]+"
_RECORDED: tuple[tuple[str, str], ...] = (
    (r"^withdrawn: ", "Withdrawn. "),
    (
        r" on the base, where captions without the concept's word fail",
        " captions on the base. These captions do not name the concept and fail without an attack",
    ),
    (
        r", less than ([\d.]+ %): too weak where nothing was erased, its number is a lower bound",
        r". At least \1 were expected. The attack is too weak where nothing was erased. Its number is a lower bound",
    ),
    (
        r" was not measured with these settings on the base: how strong it is there is not known",
        " was not measured with these settings on the base. Its strength there is not known",
    ),
    (r"^gradients of", "Gradients of"),
    (r" cases: rates of", " cases. Rates of"),
    (r" cases: it does not", " cases. It does not"),
    (r" cases, and nothing in it is random", " cases. Nothing in this attack is random"),
    (r" of (\d+) with its budget and", r" of \1 prompts with its budget and"),
    (
        rf" \(({_P})\): more budget makes it weaker, its number",
        r". A larger budget makes it weaker (\1). Its number",
    ),
    (
        r"^(white-box|free-embedding) (.+) ([\d.]+ %) of (\d+), (black-box|white-box text) union ([\d.]+ %)",
        r"The \1 attack \2 wins \3 of \4 prompts. The union of the \5 attacks wins \6",
    ),
    (
        rf" \(more than chance, ({_P})\): the (.+) search is too weak here, its number",
        r". Chance alone does not explain the difference (\1). The \2 search is too weak here. Its number",
    ),
    (
        rf" \(chance alone could do that, ({_P})\): the (.+) search may be too weak here, its number",
        r". Chance alone could explain the difference (\1). The \2 search may be too weak here. Its number",
    ),
)


def failed(evaluation: Evaluation, label: str, tier: str) -> list[Mapping[str, Any]]:
    """Return the failed checks of an attack; a check without an attack counts for all attacks with gradients."""
    return [
        check
        for check in evaluation.checks
        if check["name"] in DECISIVE and not check["ok"] and _about(check, label, tier)
    ]


def _about(check: Mapping[str, Any], label: str, tier: str) -> bool:
    return bool(check["attack"] == label) if check["attack"] else tier in GRADIENT_TIERS


def failed_checks(evaluation: Evaluation, result: Result) -> list[Mapping[str, Any]]:
    """Return the failed checks behind a rate of success.

    A worst case is in doubt if it includes attacks with gradients and none of them is to be trusted. The remaining
    attacks may then win far fewer prompts than an attacker can.
    """
    if result.metric not in WORST_METRICS:
        return failed(evaluation, label_of(result), tier_of(result))
    return failed_checks_of_all(evaluation, attack_of(result).get("attacks", ()))


def failed_checks_of_all(evaluation: Evaluation, labels: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the failed checks behind a worst case over attacks, if none of those with gradients is to be trusted."""
    tiers = {label_of(r): tier_of(r) for r in evaluation.results if r.metric == "asr_any"}
    found = [failed(evaluation, label, tiers[label]) for label in labels if tiers.get(label) in GRADIENT_TIERS]
    if not all(found):
        return []
    return list({(check["name"], check["attack"]): check for checks in found for check in checks}.values())


def with_recorded_checks(evaluation: Evaluation) -> Evaluation:
    """Return the numbers of a manifest as an evaluation, with the failed checks that the manifest records.

    A manifest has no field for checks. The texts of failed checks are the ``doubts`` in a number's settings.
    """
    told = {(label_of(r), str(detail)): None for r in evaluation.results for detail in r.settings.get("doubts", ())}
    checks = ({"name": "recorded", "attack": label, "ok": False, "detail": detail} for label, detail in told)
    return replace(evaluation, results=tuple(map(_bare, evaluation.results)), checks=(*evaluation.checks, *checks))


def _bare(result: Result) -> Result:
    return replace(result, settings={key: value for key, value in result.settings.items() if key != "doubts"})


@dataclass
class Marks:
    """The footnotes of failed checks, numbered in the order in which tables use them.

    Args:
        sentences: Text of each footnote so far.
    """

    sentences: list[str] = field(default_factory=list)

    def text(self, checks: Iterable[Mapping[str, Any]]) -> str:
        """Return ``not trusted ¹`` for failed checks, and an empty text without them."""
        numbers = sorted({self._number(said(check)) for check in checks})
        return f"{NOT_TRUSTED} {' '.join(map(raised, numbers))}" if numbers else ""

    def beside(self, number: str, checks: Iterable[Mapping[str, Any]]) -> str:
        """Return a number with its mark."""
        mark = self.text(checks)
        return f"{number}, {mark}" if mark else number

    def notes(self) -> list[str]:
        """Return the texts of the footnotes, each behind its mark."""
        return [f"{raised(i)} {sentence}" for i, sentence in enumerate(self.sentences, start=1)]

    def _number(self, sentence: str) -> int:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return self.sentences.index(sentence) + 1


def raised(number: int) -> str:
    """Return a number in raised digits."""
    return str(number).translate(_RAISED)


def said(check: Mapping[str, Any]) -> str:
    """Return the outcome of a check in short sentences, also for one that an earlier version recorded."""
    detail = str(check["detail"])
    for recorded, plain in _RECORDED:
        detail = re.sub(recorded, plain, detail)
    return detail if detail.endswith(".") else f"{detail}."


def check_rows(evaluation: Evaluation) -> list[list[str]]:
    """Return a row for each check: its demand, the attack, ``yes`` or ``no``, and its outcome in words."""
    return [
        [CHECKS.get(c["name"], c["name"].replace("_", " ")), c["attack"] or "all", "yes" if c["ok"] else "no", said(c)]
        for c in evaluation.checks
    ]
