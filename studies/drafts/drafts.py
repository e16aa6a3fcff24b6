"""Compare drafts, pictures of few steps, with whole pictures of the same texts and seeds: drafts.py FILE [ENCODER ...].

FILE receives the margins as JSON; without an encoder the table is printed from it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from robust_encoders import RobustEncoder
from robust_encoders.training.attacks.word_swap import WordSwap
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.benchmarks.shapes_detectors import shapes_detector
from robust_encoders.training.metrics.rates import margins_of
from robust_encoders.training.provenance import write_json
from robust_encoders.training.types import Case
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.judge import load_judge

LABELS = ("paraphrase", "word_swap", "word_swap_caption")
STEPS = (4, 6, 15)  # the last one is that of an evaluation
CASES = 12
BATCH = 50
KEPT = (4, 8, 16)
DRAWN = 300
COLUMNS = (
    "encoder",
    "texts",
    "n",
    "groups",
    "whole pictures won",
    "groups won",
    "steps",
    "rank correlation",
    "seconds",
)


def measure(name: str) -> dict[str, Any]:
    """Return label to texts, groups (a group competes for one case), margins and seconds, by the number of steps."""
    encoder = RobustEncoder.from_pretrained(f"shapes/{name}")
    concept = ShapesConcept.parse(encoder.manifest.concept.name)
    detector = shapes_detector("shapes_agreed", concept.value, concept.concept, load_judge())
    cases = ShapesBenchmark(concept.value, n=CASES).named_sets(0)[0].cases
    pipe, suite = ShapesWorld().pipeline(), shapes_suite("standard", concept)
    base, found = Backbone.from_pipeline(pipe), {}
    with encoder.attached(pipe):
        target = TargetModel.from_pipeline(pipe, base=base, artifact=encoder)
        for label in LABELS:
            rows = list(texts(suite[label], target, cases))
            scores = {steps: scored(pipe, detector, rows, steps) for steps in STEPS}
            found[label] = {
                "groups": [case.index for _, case in rows],
                "margins": {steps: margins for steps, (margins, _) in scores.items()},
                "seconds": {steps: seconds for steps, (_, seconds) in scores.items()},
            }
    return found


def texts(attack: Any, target: TargetModel, cases: Sequence[Case]) -> Iterator[tuple[str, Case]]:
    """Yield what an attack draws without drafts, each with its case; a word swap draws all texts for one case."""
    attack = replace(attack, draft_steps=0, **({"drawn": DRAWN} if isinstance(attack, WordSwap) else {}))
    if not isinstance(attack, WordSwap):
        for case, result in zip(cases, attack.run(target, cases, seed=0), strict=True):
            yield from ((str(candidate.value), case) for candidate in result.candidates)
        return
    asked: list[tuple[str, Case]] = []

    def query(found: Sequence[str], about: Sequence[Case]) -> torch.Tensor:
        asked.extend(zip(found, about, strict=True))
        return torch.zeros(len(found))

    target._query = query
    attack.run(target, cases, seed=0)
    yield from asked


def scored(pipe: Any, detector: Any, rows: Sequence[tuple[str, Case]], steps: int) -> tuple[list[float], float]:
    """Return the smallest margin of each picture, and the processor seconds of drawing and judging."""
    start, margins = time.process_time(), []
    for i in range(0, len(rows), BATCH):
        part = rows[i : i + BATCH]
        drawn = draw(pipe, [text for text, _ in part], [case.seed for _, case in part], SamplingConfig(steps=steps))
        margins += torch.stack([*margins_of(detector, drawn).values()]).amin(0).tolist()
    return margins, round(time.process_time() - start, 1)


def lines(found: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """Yield one line for each encoder, attack and number of steps of a draft."""
    whole = str(STEPS[-1])
    for name, labels in found.items():
        for label, one in labels.items():
            margins = one["margins"]
            groups = defaultdict(list)
            for i, group in enumerate(one["groups"]):
                groups[group].append(i)
            hits = [m >= 0 for m in margins[whole]]
            won = [rows for rows in groups.values() if any(hits[i] for i in rows)]
            about = (name, label, len(hits), len(groups), sum(hits), len(won))
            for steps in map(str, STEPS[:-1]):
                order = [sorted(rows, key=lambda i: -margins[steps][i]) for rows in won]
                kept = [sum(any(hits[i] for i in rows[:k]) for rows in order) for k in KEPT]
                rank = float(spearmanr(margins[steps], margins[whole]).statistic)
                seconds = f"{one['seconds'][steps]:.0f} / {one['seconds'][whole]:.0f}"
                yield (*about, steps, f"{rank:.2f}", seconds, *kept)


def main() -> None:
    """Measure the named encoders, or print the table."""
    path, names = Path(sys.argv[1]), sys.argv[2:]
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names:
        write_json(path, found := {**found, name: json.loads(json.dumps(measure(name)))}, compact=True)
    if not names:
        columns = (*COLUMNS, *(f"won within best {k}" for k in KEPT))
        for row in (columns, ("---",) * len(columns), *lines(found)):
            sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")


if __name__ == "__main__":
    main()
