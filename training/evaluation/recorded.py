"""The recorded parts of a finished evaluation: verdicts of attacks, and judged pictures of unattacked prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..types import JudgedPicture, Verdict
from .results import CELLS

KeptPictures = Literal["all", "best"]
ALL: KeptPictures = "all"
BEST: KeptPictures = "best"
GROUPS_PART = "groups"  # name of the part that holds the sub-groups of all attacked and unattacked prompts


@dataclass(frozen=True)
class RecordedAttack:
    """The verdicts of one attack, with the numbers that follow from them.

    Args:
        part: Name of the part, ``attack-LABEL``.
        label: Label of the attack.
        verdicts: Verdicts, one for each case.
        results: Numbers as JSON values.
        kept: ``all`` if every judged picture was kept, ``best`` if only the best of each case was.
        clusters: Number of the cluster of each case; None for independent cases.
    """

    part: str
    label: str
    verdicts: tuple[Verdict, ...]
    results: tuple[Mapping[str, Any], ...]
    kept: KeptPictures = ALL
    clusters: tuple[int, ...] | None = None


def recorded_attacks(folder: Path) -> list[RecordedAttack]:
    """Return the attacks of an evaluation, also of one of suite version 1.

    Args:
        folder: Folder of the evaluation.
    """
    return [_attack(file) for file in sorted((folder / CELLS).glob("attack-*.json"))]


def _attack(file: Path) -> RecordedAttack:
    value = value_of(file)
    results = tuple(value["results"])
    label = str(results[0]["settings"]["attack"]["label"])
    verdicts = tuple(map(Verdict.from_record, value["verdicts"]))
    clusters = value.get("clusters")
    together = None if clusters is None else tuple(clusters)
    return RecordedAttack(file.stem, label, verdicts, results, value.get("pictures", ALL), together)


def recorded_unattacked(folder: Path) -> dict[str, tuple[str, tuple[JudgedPicture, ...]]]:
    """Return name of a prompt set to the name of its part and its judged unattacked pictures.

    Args:
        folder: Folder of the evaluation.
    """
    found = {}
    for file in sorted((folder / CELLS).glob("unattacked-*.json")):
        value = value_of(file)
        pictures = tuple(map(JudgedPicture.from_record, value["pictures"]))
        found[str(value["prompts"])] = (file.stem, pictures)
    return found


def recorded_groups(folder: Path) -> dict[str, tuple[Mapping[str, str], ...]]:
    """Return name of a prompt set to the sub-groups of each of its cases, label to value; empty without a record.

    Args:
        folder: Folder of the evaluation.
    """
    stored = value_of(folder / CELLS / f"{GROUPS_PART}.json")
    return {name: tuple(rows) for name, rows in stored.get("sets", {}).items()}


def value_of(file: Path) -> dict[str, Any]:
    """Return the value of a part; empty if there is no such file."""
    if not file.exists():
        return {}
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["value"]
    return value


def chunks_of(folder: Path) -> Path:
    """Return the folder of an evaluation's picture archives."""
    return folder / CELLS / "chunks"
