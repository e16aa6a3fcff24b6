"""Finished evaluations as they lie in folders, made without drawing or attacking anything."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.evaluation.suite import SUITE_KEY
from robust_encoders.training.metrics.rates import attack_rates, rate
from robust_encoders.training.types import Result, Verdict

# Label of an attack to its tier and the iteration at which each case was won: 0 without it, None never.
Attacks = Mapping[str, tuple[str, Sequence[int | None]]]
JUDGED: dict[str, Any] = {"detector": "judge/circle", "detector_version": "v1", "threshold": 0.5}
PROMPTS: dict[str, Any] = {"prompt_set": "circle/name", "prompt_sha256": "c0ffee", "seeds": (3,)}


def verdict(index: int, step: int | None) -> Verdict:
    before = step == 0
    return Verdict(index, f"prompt {index}", index, before, step is not None, step is not None, step, "text")


def attack_cell(
    label: str, tier: str, steps: Sequence[int | None], changes: Mapping[str, Any]
) -> tuple[list[Verdict], list[Result]]:
    verdicts = [verdict(i, step) for i, step in enumerate(steps)]
    rates = attack_rates([v.before for v in verdicts], [v.any for v in verdicts], [v.last for v in verdicts])
    settings = {"attack": {"label": label, "tier": tier, "name": "random_prefix", "candidates": 40}}
    return verdicts, [replace(r, **{"settings": settings, **JUDGED, **PROMPTS, **changes}) for r in rates]


def write_evaluation(folder: Path, attacks: Attacks, label: str = "esd", **changes: Any) -> Path:
    """Write a finished evaluation and its cells; ``changes`` are fields of every rate."""
    made = {name: attack_cell(name, tier, steps, changes) for name, (tier, steps) in attacks.items()}
    numbers = [result for _, results in made.values() for result in results]
    plain = replace(rate("pre_asr", [False] * 4), **{**JUDGED, **PROMPTS, **changes})
    kept = [rate("retain_all", [True] * 9 + [False]), Result("clip_score", 0.5, 10, (0.4, 0.6))]
    Evaluation(label, "circle", (plain, *numbers, *kept)).write(folder / RESULTS_NAME)
    for name, (verdicts, results) in made.items():
        value = {"verdicts": [asdict(v) for v in verdicts], "results": [asdict(r) for r in results]}
        write_cell(folder, f"attack-{name}", value)
    return folder


def set_version(folder: Path, version: int) -> Path:
    """Put all numbers of a finished evaluation under a suite version; its cells stay as they are."""
    found = Evaluation.read(folder)
    results = (replace(one, settings={**one.settings, SUITE_KEY: version}) for one in found.results)
    replace(found, results=tuple(results)).write(folder / RESULTS_NAME)
    return folder


def write_cell(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    (folder / "cells").mkdir(exist_ok=True)
    text = json.dumps({"key": "k", "seconds": 1, "value": value})
    (folder / "cells" / f"{name}.json").write_text(text, encoding="utf-8")


def write_pictures(folder: Path, *prompts: str, kind: str = "attack", name: str = "a") -> None:
    """Write the cell of pictures, of one group with a red and a blue picture for each prompt."""
    rows = [
        {
            "prompt": prompt,
            "seed": 7,
            "original": "a circle" if kind == "attack" else "",
            "won": True if kind == "attack" else None,
            "before": {"png": png_of((255, 0, 0)), "score": 0.9, "found": True, "instead": None},
            "after": {"png": png_of((0, 0, 255)), "score": 0.1, "found": False, "instead": "square"},
        }
        for prompt in prompts
    ]
    write_cell(folder, "pictures", {"groups": [{"kind": kind, "name": name, "rows": rows}]})


def png_of(colour: tuple[int, int, int]) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
