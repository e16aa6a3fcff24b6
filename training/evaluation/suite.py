"""The version of the evaluation's suite: numbers of two versions answer different questions and never share a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..types import Result
from .results import Evaluation

# Version to the reason why it was raised. Attacks, judges and prompts change only together with a new version.
SUITE_VERSIONS: Mapping[int, str] = {
    1: "The first suite. A success is what one judge finds. Records of this version do not name it.",
    2: (
        "A success is what several judges agree on. Every verdict and picture is on record. The suite has further "
        "attacks, floors of chance, and prompts in everyday words."
    ),
    3: (
        "The attack mechanism knows the defence, and takes part in the worst case. Gradients are called masked if "
        "attacks without them win significantly more."
    ),
    4: (
        "Drafts, pictures of few steps, choose which texts of paraphrase, black_box and the word swaps are drawn "
        "whole. The pools of texts are larger. The floor of chance counts all drafts."
    ),
}
SUITE_VERSION = max(SUITE_VERSIONS)
SUITE_KEY = "suite_version"  # setting of a result that holds its version


def version_of(result: Result) -> int:
    """Return the suite version of a result; a result that does not name one is of version 1."""
    return int(result.settings.get(SUITE_KEY, 1))


def versions_of(evaluation: Evaluation) -> list[int]:
    """Return the suite versions of an evaluation's numbers, the newest first; without any number it is version 1.

    Numbers that others reported follow no suite. They count with the newest measured version.
    """
    measured = {version_of(result) for result in evaluation.results if result.origin == "measured"}
    return sorted(measured or {1}, reverse=True)


def of_version(evaluation: Evaluation, version: int) -> Evaluation:
    """Return an evaluation with the numbers of one suite version alone; see ``versions_of``."""
    versions = versions_of(evaluation)
    if versions == [version]:
        return evaluation
    newest = version == versions[0]
    kept = (r for r in evaluation.results if (newest if r.origin == "reported" else version_of(r) == version))
    return replace(evaluation, results=tuple(kept))


def by_version(evaluations: Iterable[Evaluation]) -> dict[int, list[Evaluation]]:
    """Return suite version to the evaluations with numbers of that version, the newest version first."""
    found: dict[int, list[Evaluation]] = {}
    for evaluation in evaluations:
        for version in versions_of(evaluation):
            found.setdefault(version, []).append(of_version(evaluation, version))
    return dict(sorted(found.items(), reverse=True))


def suite_title(name: str, version: int) -> str:
    """Return the title of a table with its suite version."""
    return f"{name}, suite version {version}"


def version_problems(named: Sequence[tuple[str, Evaluation]], version: int, purpose: str) -> list[str]:
    """Return one problem for each evaluation that has no numbers of a suite version, or has further versions.

    Args:
        named: Name of each evaluation, for the message, and its numbers.
        version: Version that all of them must have.
        purpose: Words for what the evaluations are needed for.
    """
    return [
        f"expected evaluations of suite version {version} {purpose}, found version "
        f"{', '.join(map(str, found))} in {name}; evaluate that encoder again"
        for name, evaluation in named
        if (found := versions_of(evaluation)) != [version]
    ]
