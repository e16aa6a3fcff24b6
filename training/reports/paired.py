"""Tables of two encoders each, attack by attack, on the same attacked prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..evaluation.sanity.trust import Marks, failed_checks, failed_checks_of_all
from ..evaluation.suite import suite_title, versions_of
from ..evaluation.threat_model import EMBEDDING_TIERS, TEXT_TIERS, attack_of, tier_of
from ..evaluation.worst_case import union
from ..metrics.paired_tests import PairedTest, paired_test, paired_verdicts
from ..types import Result
from .stored_evaluation import StoredEvaluation
from .tables import Entry, Number, Table
from .titles import WORST, title_of

_NOTE = (
    "Rates are in per cent of the same prompts. The difference is first minus second, with Newcombe's 95 % interval. "
    "McNemar's exact two-sided p is computed on the prompts that only one encoder lost. The p-values are not corrected "
    "for multiple tests."
)
Two = tuple[StoredEvaluation, StoredEvaluation]
Checks = list[Mapping[str, Any]]


def paired_tables(folders: Sequence[Path]) -> str:
    """Return Markdown tables, one for every two evaluations of a concept that were attacked on the same prompts.

    Each row is an attack by text or embeddings that won at least one prompt from either encoder. Detector, threshold,
    sampling and the attack's settings must be the same for both. The last row is the worst case over T0 to T3, prompt
    by prompt, of the attacks by text that can be compared. With fewer than two such attacks it is left out.

    Args:
        folders: Folders of stored evaluations with their verdicts, or the ``results.json`` in them.

    Returns:
        The tables; empty if no two evaluations can be compared.

    Raises:
        ValueError: If results have another schema.
        FileNotFoundError: If there are no results.
    """
    read = [StoredEvaluation.read(folder) for folder in folders]
    return "\n".join(filter(None, map(_table, combinations(read, 2))))


def _table(two: Two) -> str:
    first, second = two
    if first.evaluation.concept != second.evaluation.concept:
        return ""
    titles, version = [title_of(one.evaluation) for one in two], versions_of(first.evaluation)
    title = f"{first.evaluation.concept}: {titles[0]} against {titles[1]}"
    if version != (other := versions_of(second.evaluation)):
        return f"{title}: not compared, because the suite versions differ ({_listed(version)} and {_listed(other)}).\n"
    labels = [label for label in first.attacks if _paired(two, label)]
    alike = [label for label in labels if _conditions(first.attacks[label]) == _conditions(second.attacks[label])]
    rows = [*_attack_rows(two, alike), *_union_rows(two, alike)]
    if not rows:
        return ""
    marks = Marks()
    table = Table(suite_title(title, version[0]), ["attack", *titles, "difference", "p"], {"": rows}, _NOTE)
    others = [label for label in labels if label not in alike]
    told = f"Not compared, because detector, sampling or settings differ: {', '.join(others)}." if others else ""
    lines = [f"### {table.title}", "", *table.markdown(marks), "", table.note]
    notes = [f"- {line}" for line in marks.notes()]
    return "\n".join([*lines, *filter(None, [told]), *([""] if notes else []), *notes, ""])


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions))


def _paired(two: Two, label: str) -> bool:
    """Return True if both evaluations hold verdicts of a T0 to T4 attack on the same prompts and seeds."""
    if any(label not in one.attacks or tier_of(one.attacks[label]) not in EMBEDDING_TIERS for one in two):
        return False
    keys = [[(v.index, v.prompt, v.seed) for v in one.verdicts.get(label, ())] for one in two]
    return keys[0] == keys[1] != []


def _conditions(result: Result) -> dict[str, Any]:
    """Return the conditions that must be equal before two rates of an attack can be compared."""
    judge = (result.detector, result.detector_version, result.threshold)
    return {"judge": judge, "attack": attack_of(result), "sampling": result.settings.get("sampling")}


def _attack_rows(two: Two, labels: Sequence[str]) -> Iterable[list[Entry]]:
    first, second = two
    for label in labels:
        test = paired_verdicts(first.verdicts[label], second.verdicts[label])
        if test.neither < test.n:
            yield _row(label, test, [failed_checks(one.evaluation, one.attacks[label]) for one in two])


def _union_rows(two: Two, labels: Sequence[str]) -> Iterable[list[Entry]]:
    by_text = tuple(label for label in labels if tier_of(two[0].attacks[label]) in TEXT_TIERS)
    if len(by_text) < 2:
        return
    test = paired_test(*(union(one.verdicts, by_text) for one in two))
    if test.neither < test.n:
        yield _row(WORST, test, [failed_checks_of_all(one.evaluation, by_text) for one in two])


def _row(name: str, test: PairedTest, failed: Sequence[Checks]) -> list[Entry]:
    counts = (test.both + test.only_first, test.both + test.only_second)
    rates = [
        Number(100 * won / test.n, test.n, scale=1, failed=tuple(checks))
        for won, checks in zip(counts, failed, strict=True)
    ]
    low, high = (100 * bound for bound in test.interval)
    p = "< 0.0001" if test.p_exact < 1e-4 else f"{test.p_exact:.4f}"
    return [name, *rates, f"{100 * test.difference:+.1f} [{low:.1f}, {high:.1f}]", p]
