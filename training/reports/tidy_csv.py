"""All numbers of finished evaluations as CSV in long form: one row for each number, with what it depends on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

from ..evaluation.results import RESULTS_NAME
from ..evaluation.sanity.trust import failed_checks, said
from ..evaluation.single_detectors import singles_of
from ..evaluation.suite import version_of
from ..evaluation.threat_model import attack_of, label_of, tier_of
from ..types import Result
from .row_sources import contents_sha256, stored_in
from .stored_evaluation import StoredEvaluation
from .titles import encoder_title

# The columns in their order; docs/evaluate.md describes them. New columns go to the end.
COLUMNS = (
    "source", "label", "encoder", "content_sha256", "recipe", "training_seed", "concept", "base",
    "prompt_set", "prompt_sha256", "metric", "attack", "attack_name", "tier",
    "value", "low", "high", "n", "seed", "origin", "trusted", "doubts",
    "detector", "detector_version", "threshold", "steps", "guidance", "device", "unet_calls", "seconds", "versions",
    "suite_version",
)  # fmt: skip
# A spreadsheet computes a cell that begins so, and evaluations may come from strangers.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Source:
    """The numbers in one folder, and the facts about their encoder.

    Args:
        path: Folder or file that the numbers come from, as the user named it.
        stored: Numbers of the evaluation or of the manifest.
        encoder: Hash of the tensors, name of the recipe, and seed of the training, by column; None if not known.
        evaluated: True for a finished evaluation, False for the numbers in a manifest.
    """

    path: Path
    stored: StoredEvaluation
    encoder: Mapping[str, Any]
    evaluated: bool = True

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read an evaluation, or the numbers in the manifest of an artifact.

        Args:
            path: Folder of an evaluation or of an artifact; or its ``results.json`` or ``robust_encoder.json``.

        Raises:
            FileNotFoundError: If there is neither an evaluation nor an artifact.
            ValueError: If there is no number, or the results have another schema.
            ManifestError: If the manifest is not valid.
        """
        place = path.parent if path.name == MANIFEST_NAME else path
        stored = stored_in(place)
        if not stored.evaluation.results:
            raise ValueError(f"expected numbers in {path}, found none; evaluate the encoder first")
        evaluated = (place / RESULTS_NAME).is_file() or place.is_file()
        subject = dict(stored.evaluation.subject)
        if not evaluated:
            manifest = Manifest.read(place)
            subject = {"recipe": manifest.recipe, "content_sha256": contents_sha256(manifest)}
            stored = replace(stored, evaluation=replace(stored.evaluation, subject=subject))
        recipe = dict(subject.get("recipe") or {})
        facts = {"recipe": recipe.get("name"), "training_seed": recipe.get("seed")}
        return cls(path, stored, {"content_sha256": subject.get("content_sha256"), **facts}, evaluated)


def csv_text(sources: Iterable[Source]) -> str:
    """Return CSV as of RFC 4180 with line feeds: a header, then one row for each number.

    A rate by agreement is followed by the rates of the single detectors, whose metric ends in ``_single``.

    A missing value is an empty cell, a list has spaces between its values, and a truth value is ``true`` or ``false``.
    Text that a spreadsheet would compute gets an apostrophe in front.

    Args:
        sources: Numbers with their encoders, in the order of the rows.
    """
    lines = [_line(COLUMNS)]
    for source in sources:
        for result in source.stored.evaluation.results:
            singles = [replace(one, metric=f"{one.metric}_single") for one in singles_of(result).values()]
            rows = [_row(source, one) for one in (result, *singles)]
            lines += [_line([_cell(row[column]) for column in COLUMNS]) for row in rows]
    return "".join(lines)


def _line(cells: Sequence[object]) -> str:
    """Return one line; the writer quotes a carriage return inside a cell only if it also ends its lines with one."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _row(source: Source, result: Result) -> dict[str, Any]:
    evaluation, attack = source.stored.evaluation, attack_of(result)
    sampling, label = result.settings.get("sampling") or {}, label_of(result)
    base = dict(evaluation.subject.get("base") or {})
    low, high = result.interval or (None, None)
    doubts = [said(check) for check in failed_checks(evaluation, result)]
    return {
        "source": str(source.path),
        "label": evaluation.label,
        "encoder": encoder_title(evaluation),
        **source.encoder,
        "concept": evaluation.concept,
        "base": base.get("id") or base.get("models_sha256"),
        "prompt_set": result.prompt_set,
        "prompt_sha256": result.prompt_sha256,
        "metric": result.metric,
        "attack": label,
        "attack_name": attack.get("name"),
        "tier": tier_of(result),
        "value": result.value,
        "low": low,
        "high": high,
        "n": result.n,
        "seed": result.seeds,
        "origin": result.origin,
        "trusted": not doubts,
        "doubts": "; ".join(doubts),
        "detector": result.detector,
        "detector_version": result.detector_version,
        "threshold": result.threshold,
        "steps": sampling.get("steps"),
        "guidance": sampling.get("guidance"),
        "device": result.settings.get("device"),
        "unet_calls": result.unet_calls,
        "seconds": evaluation.seconds.get(f"attack-{label}") if label else None,
        "versions": "; ".join(f"{name} {version}" for name, version in result.versions.items()),
        "suite_version": None if result.origin == "reported" else version_of(result),
    }


def _cell(value: object) -> object:
    """Return a value as the writer takes it; numbers keep all their digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[0] if len(value) == 1 else " ".join(map(str, value))
    if isinstance(value, str):
        readable = value.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair has no UTF-8
        return f"'{readable}" if readable.startswith(_FORMULA) else readable
    return value
