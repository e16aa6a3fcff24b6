"""The sub-groups of attacked prompts: as an evaluation records them, or read from the prompts of an older record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .benchmarks import BENCHMARKS
from .plan import ReadsGroups
from .recorded import recorded_attacks, recorded_groups
from .results import Evaluation

Groups = tuple[Mapping[str, str], ...]


def groups_of(folder: Path, evaluation: Evaluation) -> Groups:
    """Return label to value of the sub-groups of each attacked prompt, in the order of the prompts.

    Args:
        folder: Folder of the evaluation.
        evaluation: Numbers of the evaluation.

    Raises:
        ValueError: If neither the records nor the benchmark knows any sub-group.
    """
    attacked = next((result.prompt_set for result in evaluation.results if result.metric == "pre_asr"), "")
    found: Sequence[Mapping[str, str]] = recorded_groups(folder).get(attacked, ())
    if not any(found):
        found = _read(folder, evaluation)
    if not any(found):
        raise ValueError(
            f"expected sub-groups of the prompts on record in {folder}, found none; evaluate again with a benchmark "
            "that declares them, or give the file of prompts columns such as group:gender"
        )
    return tuple(found)


def _read(folder: Path, evaluation: Evaluation) -> list[Mapping[str, str]]:
    """Return the sub-groups that the benchmark reads in the recorded prompts."""
    if evaluation.benchmark not in BENCHMARKS:
        return []
    kind, attacks = BENCHMARKS[evaluation.benchmark], recorded_attacks(folder)
    if not issubclass(kind, ReadsGroups) or not attacks:
        return []
    return [kind.groups_in(verdict.prompt) for verdict in attacks[0].verdicts]
