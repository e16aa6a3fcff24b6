"""The best candidates of a finished evaluation: a small copy with their pictures, and the texts that won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import expanded, write_atomically

from ..provenance import write_json
from ..types import JudgedPicture, Verdict
from .benchmarks.mma_prompts import AdversarialPrompt
from .judged_pictures import copy_pictures
from .recorded import BEST, GROUPS_PART, chunks_of, recorded_attacks, recorded_groups, recorded_unattacked
from .results import CELLS, RESULTS_NAME, Evaluation


def keep_winners(folder: str | Path, out: str | Path) -> None:
    """Copy an evaluation with its numbers and verdicts, and with few of its pictures.

    Of each attacked case, the picture of the first success is kept, or that of the candidate with the highest margin.
    Unattacked prompts have one picture each, which is kept. Pictures of prompts without the concept are left out. A
    second judgement of the copy says that it used this set.

    Args:
        folder: Folder of the evaluation.
        out: Folder of the copy.

    Raises:
        FileExistsError: If the folder of the copy holds results already.
        FileNotFoundError: If there are no results.
        IntegrityError: If pictures are missing.
    """
    folder, out = expanded(folder), expanded(out)
    if (out / RESULTS_NAME).exists():
        raise FileExistsError(
            f"expected a folder without {RESULTS_NAME} for the copy, found one in {out}; choose another"
        )
    plain = {result.prompt_set for result in Evaluation.read(folder).results if result.metric == "pre_asr"}
    parts: dict[str, Mapping[str, Any]] = {}
    pictures: list[JudgedPicture] = []
    for name, (part, drawn) in recorded_unattacked(folder).items():
        if name in plain:
            parts[part] = {"prompts": name, "pictures": [asdict(one) for one in drawn]}
            pictures += drawn
    for attack in recorded_attacks(folder):
        best = [_best(verdict) for verdict in attack.verdicts]
        rows = [asdict(one) for one in best]
        parts[attack.part] = {
            "verdicts": rows,
            "results": attack.results,
            "pictures": BEST,
            "clusters": None if attack.clusters is None else list(attack.clusters),
        }
        pictures += [one for verdict in best for one in verdict.pictures]
    if groups := recorded_groups(folder):
        parts[GROUPS_PART] = {"sets": {name: list(rows) for name, rows in groups.items()}}
    copy_pictures(chunks_of(folder), pictures, chunks_of(out))
    for part, value in parts.items():
        # Without a key, no evaluation takes the part for a whole one.
        write_json(out / CELLS / f"{part}.json", {"key": "", "seconds": 0.0, "value": value}, compact=True)
    write_atomically(out / RESULTS_NAME, (folder / RESULTS_NAME).read_bytes())


def winning_texts(folder: Path) -> list[AdversarialPrompt]:
    """Return the texts with which attacks won, each once for its prompt.

    A prompt that succeeds without an attack is not among them, and neither are attacks on embeddings or latents.

    Args:
        folder: Folder of the evaluation.
    """
    found: dict[tuple[str, str], AdversarialPrompt] = {}
    for attack in recorded_attacks(folder):
        for verdict in attack.verdicts:
            text, seed = _won(verdict)
            if text and text != verdict.prompt:
                found.setdefault((text, verdict.prompt), AdversarialPrompt(text, verdict.prompt, seed, attack.label))
    return list(found.values())


def _won(verdict: Verdict) -> tuple[str, int]:
    """Return the text of the winning candidate and its seed; empty if none won, or it was no text."""
    if verdict.best is None:  # no candidate was judged, or the record is of suite version 1
        won = verdict.any and not verdict.before and not verdict.pictures
        return (verdict.text if won else ""), verdict.seed
    best = verdict.pictures[verdict.best]
    return (best.text if best.hit and best.kind == "text" else ""), best.seed


def _best(verdict: Verdict) -> Verdict:
    if verdict.best is None:
        return replace(verdict, pictures=())
    return replace(verdict, pictures=(verdict.pictures[verdict.best],), best=0)
