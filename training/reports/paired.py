"""Encoders against each other, attack by attack, on the prompts that both were attacked on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..evaluation.sanity.trust import Marks, failed_checks, failed_checks_of_all
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS, attack_of, tier_of
from ..evaluation.worst_case import union
from ..metrics.paired_tests import PairedTest, paired_test, paired_verdicts
from ..types import Result
from .plots.data import WORST
from .stored_evaluation import StoredEvaluation
from .tables import markdown, title_of

_NOTE = (
    "Per cent of the same prompts, first minus second with Newcombe's 95 % interval, and McNemar's exact two-sided p "
    "on the prompts that only one of them lost. Each p stands for itself and is not corrected for how many there are."
)


def paired_tables(folders: Sequence[Path]) -> str:
    """Return Markdown: a table for every two evaluations of a concept that were attacked on the same prompts.

    A row is an attack by text or embeddings that won at least one prompt from either, if detector, threshold, sampling
    and the attack's settings are the same for both. The last row is the worst case over T0 to T3, prompt by prompt, of
    the attacks by text that can be compared; with fewer than two it would say nothing new, and is left out.

    Args:
        folders: Of stored evaluations with their cells, or the ``results.json`` in them.

    Returns:
        The tables; empty where no two evaluations can be compared.

    Raises:
        ValueError: If results have another schema.
        FileNotFoundError: If there are none.
    """
    read = [StoredEvaluation.read(folder) for folder in folders]
    return "\n".join(filter(None, (_table(first, second) for first, second in combinations(read, 2))))


def _table(first: StoredEvaluation, second: StoredEvaluation) -> str:
    if first.evaluation.concept != second.evaluation.concept:
        return ""
    labels = [label for label in first.attacks if _paired(first, second, label)]
    alike = [label for label in labels if _conditions(first.attacks[label]) == _conditions(second.attacks[label])]
    marks = Marks()
    rows = [*_attack_rows(first, second, alike, marks), *_union_rows(first, second, alike, marks)]
    if not rows:
        return ""
    titles = [title_of(one.evaluation) for one in (first, second)]
    head = ["attack", *titles, "difference", "p"]
    others = [label for label in labels if label not in alike]
    told = f"Not compared, because detector, sampling or settings differ: {', '.join(others)}." if others else ""
    lines = [f"### {first.evaluation.concept}: {titles[0]} against {titles[1]}", "", *markdown(head, rows), "", _NOTE]
    return "\n".join([*lines, *filter(None, [told]), *([""] if marks.notes() else []), *marks.notes(), ""])


def _paired(first: StoredEvaluation, second: StoredEvaluation, label: str) -> bool:
    """Return whether verdicts on the same prompts and seeds are known of an attack that a text encoder can face."""
    if label not in second.attacks or any(
        tier_of(one.attacks[label]) not in EMBEDDING_TIERS for one in (first, second)
    ):
        return False
    keys = [[(v.index, v.prompt, v.seed) for v in one.verdicts.get(label, ())] for one in (first, second)]
    return keys[0] == keys[1] != []


def _conditions(result: Result) -> dict[str, Any]:
    """Return what has to be equal before two rates of an attack can be compared."""
    judge = (result.detector, result.detector_version, result.threshold)
    return {"judge": judge, "attack": attack_of(result), "sampling": result.settings.get("sampling")}


def _attack_rows(
    first: StoredEvaluation, second: StoredEvaluation, labels: Sequence[str], marks: Marks
) -> Iterable[list[str]]:
    for label in labels:
        test = paired_verdicts(first.verdicts[label], second.verdicts[label])
        if test.neither < test.n:
            told = [failed_checks(one.evaluation, one.attacks[label]) for one in (first, second)]
            yield _row(label, test, [marks.text(checks) for checks in told])


def _union_rows(
    first: StoredEvaluation, second: StoredEvaluation, labels: Sequence[str], marks: Marks
) -> Iterable[list[str]]:
    by_text = tuple(label for label in labels if tier_of(first.attacks[label]) in TEXT_TIERS)
    if len(by_text) < 2:
        return
    test = paired_test(*(union(one.verdicts, by_text) for one in (first, second)))
    if test.neither < test.n:
        told = [failed_checks_of_all(one.evaluation, by_text) for one in (first, second)]
        yield _row(WORST, test, [marks.text(checks) for checks in told])


def _row(name: str, test: PairedTest, marks: Sequence[str]) -> list[str]:
    counts = (test.both + test.only_first, test.both + test.only_second)
    rates = [", ".join(filter(None, (f"{100 * c / test.n:.1f}", mark))) for c, mark in zip(counts, marks, strict=True)]
    low, high = (100 * bound for bound in test.interval)
    p = "< 0.0001" if test.p_exact < 1e-4 else f"{test.p_exact:.4f}"
    return [name, *rates, f"{100 * test.difference:+.1f} [{low:.1f}, {high:.1f}]", p]
