"""Tables of evaluations: one row for each encoder, every rate with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..evaluation.results import Evaluation
from ..types import Result
from .metric_labels import cell

Column = tuple[str, Callable[[Result], bool]]
_RATES = ("pre_", "asr_")
LABELS = {
    "base": "base",
    "empty_prompt": "empty prompt",
    "word_filter": "word filter",
    "des": "DES",
    "sage": "DES with SAGE's terms",
    "esd": "ESD",
    "advunlearn": "AdvUnlearn",
    "hardened": "AdvUnlearn, hardened",
    "strict": "AdvUnlearn, strict",
    "shapes/circle": "AdvUnlearn, strict",  # as they are shipped
    "shapes/red": "AdvUnlearn, hardened",
    "uce": "UCE",
    "rece": "RECE",
    "spm": "SPM",
    "spm-te": "SPM on the text encoder",
}


def _plain(words: str) -> Callable[[Result], bool]:
    return lambda result: result.metric == "pre_asr" and result.prompt_set.endswith(f"/{words}")


def _attacked(label: str, metric: str = "asr_any") -> Callable[[Result], bool]:
    return lambda result: result.metric == metric and result.settings.get("attack", {}).get("label") == label


def _named(metric: str) -> Callable[[Result], bool]:
    return lambda result: result.metric == metric


COLUMNS: tuple[Column, ...] = (
    ("pre-ASR name", _plain("name")),
    ("pre-ASR synonyms seen", _plain("seen")),
    ("pre-ASR synonym unseen", _plain("unseen")),
    ("ASR continuous, per prompt", _attacked("continuous")),
    ("ASR continuous, shared", _attacked("shared")),
    ("ASR discrete", _attacked("discrete")),
    ("ASR discrete, last", _attacked("discrete", "asr_last")),
    ("random prefixes", _attacked("random")),
    ("random prefix, last", _attacked("random", "asr_last")),
    ("retain shape", _named("retain_shape")),
    ("retain colour", _named("retain_colour")),
    ("retain background", _named("retain_background")),
    ("retain style", _named("retain_style")),
    ("CLIP score", _named("clip_score")),
)
CONTROLS: tuple[Column, ...] = tuple(
    (factor, _named(f"judge_{factor}")) for factor in ("shape", "colour", "background", "style")
)


def results_table(evaluations: Sequence[Evaluation | Path]) -> str:
    """Return Markdown: for each concept a table with one row for each evaluation, in the order given.

    Rates are in per cent with their 95 % interval. Below the table stands how often the judge is right where the truth
    is known, which no accuracy in the table can be expected to exceed.

    Args:
        evaluations: Evaluations, or the ``results.json`` files or folders to read them from.

    Raises:
        ValueError: If there are none.
    """
    read = [one if isinstance(one, Evaluation) else Evaluation.read(one) for one in evaluations]
    if not read:
        raise ValueError("expected at least one evaluation, found none")
    concepts = dict.fromkeys(one.concept for one in read)
    return "\n".join(_concept_table(concept, [one for one in read if one.concept == concept]) for concept in concepts)


def _concept_table(concept: str, evaluations: Sequence[Evaluation]) -> str:
    columns = [c for c in COLUMNS if any(_find(one, c) for one in evaluations)]
    rows = [[title_of(one), *(cell(_find(one, column)) for column in columns)] for one in evaluations]
    lines = [
        f"### {concept}",
        "",
        *markdown(["encoder", *(name for name, _ in columns)], rows),
        "",
        sizes(evaluations),
    ]
    judge = judge_line(evaluations)
    return "\n".join([*lines, *([judge] if judge else []), ""])


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, padded so that it also reads as plain text."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    return [f"| {line} |" for line in (padded[0], rule, *padded[1:])]


def who_of(evaluation: Evaluation) -> str:
    """Return who was evaluated, in the words of this package: the recipe's variant, the method, or the label itself."""
    recipe = str(dict(evaluation.subject.get("recipe") or {}).get("name", ""))
    variant = recipe.rpartition("/")[2].removeprefix(f"{evaluation.concept}-")
    return LABELS.get(recipe) or LABELS.get(variant) or LABELS.get(evaluation.label, evaluation.label)


def title_of(evaluation: Evaluation) -> str:
    """Return who was evaluated, with which seed, on how many prompts."""
    seeds = sorted({seed for result in evaluation.results for seed in result.seeds})
    counts = sorted({r.n for r in evaluation.results if r.metric.startswith(_RATES)})
    return f"{who_of(evaluation)}, seed {', '.join(map(str, seeds))}, n = {', '.join(map(str, counts))}"


def _find(evaluation: Evaluation, column: Column) -> Result | None:
    _, wanted = column
    return next((result for result in evaluation.results if wanted(result)), None)


def sizes(evaluations: Sequence[Evaluation]) -> str:
    """Return what the numbers and their intervals are, and how many prompts without the concept there were."""
    kept = sorted({r.n for one in evaluations for r in one.results if r.metric in ("retain_all", "clip_score")})
    text = "Per cent with 95 % Wilson intervals; n prompts with the concept"
    return f"{text}, {', '.join(map(str, kept))} without it." if kept else f"{text}."


def judge_line(evaluations: Sequence[Evaluation]) -> str:
    """Return how often the judge is right where the truth is known; empty where nobody looked."""
    found = [(name, _find(one, (name, wanted))) for one in evaluations[:1] for name, wanted in CONTROLS]
    parts = [f"{name} {cell(result)}" for name, result in found if result is not None]
    return f"The judge on rendered pictures: {', '.join(parts)}." if parts else ""
