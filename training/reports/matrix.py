"""The tables of whole suites: a row for each attack, a column for each encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..evaluation.results import Evaluation
from ..evaluation.sanity.trust import Marks, failed_checks, failed_checks_of_all
from ..evaluation.threat_model import LIMITS, SCOPE, by_tier, tier_of
from ..types import Result
from .metric_labels import MISSING, cell, grouped, metric_label
from .plots.data import WORST, WORST_EMBEDDINGS
from .stored_evaluation import StoredEvaluation, WorstCaseRate
from .tables import judge_line, markdown, results_table, sizes, title_of

_COSTS = (
    "Gained / n / UNet calls / seconds. Gained over `none`: per cent of the prompts that only the attack won. Seconds "
    "are those of the machine that it ran on."
)
_UTILITY = "FID, KID and LPIPS are distances to the base's own pictures: for kept prompts, lower is nearer to the base."
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def tables(found: Sequence[Evaluation | Path]) -> str:
    """Return Markdown of any evaluations: the matrix where one has a worst case, else ``results_table``.

    Args:
        found: Evaluations, or the ``results.json`` files or folders to read them from.

    Raises:
        ValueError: If there are none.
    """
    read = [one if isinstance(one, Evaluation) else Evaluation.read(one) for one in found]
    joined = any(result.metric == "worst_case" for one in read for result in one.results)
    return matrix_table(read) if joined else results_table(read)


def matrix_table(evaluations: Sequence[Evaluation]) -> str:
    """Return Markdown: for each concept the rates under every attack, what they cost, and what is kept.

    Rows stand in the order of the threat tiers, the worst cases below the attacks that they count, limits of scope in
    a table of their own. A number whose attack failed a check is marked, with the reason below.

    Args:
        evaluations: One column each, in this order.

    Raises:
        ValueError: If there are none.
    """
    if not evaluations:
        raise ValueError("expected at least one evaluation, found none")
    concepts = dict.fromkeys(one.concept for one in evaluations)
    return "\n".join(_concept(concept, [one for one in evaluations if one.concept == concept]) for concept in concepts)


def _concept(concept: str, evaluations: Sequence[Evaluation]) -> str:
    shown, marks = [StoredEvaluation(one) for one in evaluations], Marks()
    titles = [title_of(one) for one in evaluations]
    labels = _labels(shown)
    ranked = [label for label, tier in labels.items() if tier not in LIMITS]
    attacked = [*_plain_rows(shown), *_attack_rows(shown, ranked, labels, marks)]
    rows = [*sorted(attacked, key=lambda row: row[0]), *_worst_rows(shown, marks)]
    limits = _attack_rows(shown, [label for label in labels if label not in ranked], labels, marks)
    costs = [[labels[label], label, *(_cost(one, label) for one in shown)] for label in labels]
    parts = [
        [f"### {concept}"],
        markdown(["tier", "attack", *titles], rows),
        [*filter(None, (sizes(evaluations), judge_line(evaluations)))],
        *_titled("Limits of scope", [SCOPE], ["tier", "attack", *titles], limits),
        *_titled("Gained, and what it cost", [_COSTS], ["tier", "attack", *titles], costs),
        *_titled("Utility", [_UTILITY], ["metric", *titles], _utility_rows(evaluations)),
        [f"{line}  " for line in marks.notes()],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _titled(title: str, note: list[str], head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[list[str]]:
    return [[f"#### {title}"], *([note] if note else []), markdown(head, rows)] if rows else []


def _labels(shown: Sequence[StoredEvaluation]) -> dict[str, str]:
    """Return label to tier of all attacks, weakest tier first."""
    found = [(label, result) for one in shown for label, result in one.attacks.items()]
    return {label: tier_of(result) for label, result in sorted(found, key=lambda pair: by_tier(pair[1]))}


def _plain_rows(shown: Sequence[StoredEvaluation]) -> list[list[str]]:
    names = {r.prompt_set.rpartition("/")[2]: tier_of(r) for one in shown for r in one.plain}
    return [[tier, f"no attack: {name}", *(cell(_plain(one, name)) for one in shown)] for name, tier in names.items()]


def _plain(stored: StoredEvaluation, name: str) -> Result | None:
    return next((r for r in stored.plain if r.prompt_set.rpartition("/")[2] == name), None)


def _attack_rows(
    shown: Sequence[StoredEvaluation], wanted: Sequence[str], labels: dict[str, str], marks: Marks
) -> list[list[str]]:
    def rate(one: StoredEvaluation, label: str) -> str:
        result = one.attacks.get(label)
        return MISSING if result is None else marks.beside(cell(result), failed_checks(one.evaluation, result))

    return [[labels[label], label, *(rate(one, label) for one in shown)] for label in wanted]


def _worst_rows(shown: Sequence[StoredEvaluation], marks: Marks) -> list[list[str]]:
    def text(one: StoredEvaluation, worst: WorstCaseRate | None) -> str:
        return (
            MISSING if worst is None else marks.beside(worst.text, failed_checks_of_all(one.evaluation, worst.labels))
        )

    of: dict[str, tuple[str, Callable[[StoredEvaluation], WorstCaseRate | None]]] = {
        "T0-T3": (WORST, lambda one: one.worst_case),
        "T0-T4": (WORST_EMBEDDINGS, lambda one: one.worst_case_embeddings),
    }
    return [[tiers, name, *(text(one, worst(one)) for one in shown)] for tiers, (name, worst) in of.items()]


def _cost(stored: StoredEvaluation, label: str) -> str:
    result, gained = stored.attacks.get(label), stored.named("asr_gained", label)
    if result is None:
        return MISSING
    seconds = stored.evaluation.seconds.get(f"attack-{label}")
    spent = MISSING if seconds is None else f"{seconds:,.0f}"
    won = MISSING if gained is None else f"{100 * gained.value:.1f}"
    return f"{won} / {result.n} / {short(result.unet_calls)} / {spent}"


def short(value: float) -> str:
    """Return a large number with three digits, ``1.23M``."""
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def _utility_rows(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """Return a row for each metric that some evaluation has; the judge's own accuracy stands elsewhere."""
    found = grouped(result for one in evaluations for result in one.results).values()
    described = [(r.metric, metric_label(r)) for results in found for r in results]
    metrics = {metric: measure.words for metric, measure in described if measure.group != "control"}
    shown = [StoredEvaluation(one) for one in evaluations]
    return [[words, *(cell(_first(one, metric)) for one in shown)] for metric, words in metrics.items()]


def _first(stored: StoredEvaluation, metric: str) -> Result | None:
    return next((r for r in stored.evaluation.results if r.metric == metric), None)
