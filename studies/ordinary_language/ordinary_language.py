"""Measure encoders of the shapes world in ordinary language: ordinary_language.py FILE [CONCEPT=ENCODER ...].

ENCODER is a folder or a name such as ``shapes/circle``. FILE receives the counts as JSON; without an encoder the table
is printed from it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robust_encoders import RobustEncoder
from robust_encoders.training.attacks import ConditioningInversion, WordSwap
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.benchmarks.shapes_detectors import shapes_detector
from robust_encoders.training.provenance import write_json
from robust_encoders.training.types import Candidate, Case
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.training.worlds.shapes.captions import ScenePrompt
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.everyday import kept_everyday
from robust_encoders.training.worlds.shapes.judge import load_judge

NAMED, EVERYDAY, KEPT, CASES = 24, 88, 48, 12
SAMPLING = SamplingConfig()
ROWS = ("named captions", "everyday wordings kept", "captions kept", "inversion", "word swap")


def measure(concept: ShapesConcept, name: str) -> dict[str, Any]:
    """Return label to number of hits, number of cases, and processor seconds."""
    pipe = ShapesWorld().pipeline()
    base = Backbone.from_pipeline(ShapesWorld().pipeline())
    encoder = None if name == "base" else RobustEncoder.from_pretrained(name)
    if encoder is not None:
        encoder.attach(pipe)
    parts = _Measured(concept, pipe, base, encoder)
    found = {}
    for label, count in zip(
        ROWS, (parts.named, parts.everyday, parts.kept, parts.inverted, parts.swapped), strict=True
    ):
        started = time.process_time()
        hits, cases = count()
        found[label] = {"hits": hits, "cases": cases, "seconds": round(time.process_time() - started, 1)}
        sys.stderr.write(f"{name} {label} {found[label]}\n")
    return found


class _Measured:
    def __init__(self, concept: ShapesConcept, pipe: Any, base: Backbone, encoder: Any) -> None:
        self.concept, self.pipe, self.judge = concept, pipe, load_judge()
        self.detector = shapes_detector("shapes_agreed", concept.value, concept.concept, self.judge)
        self.target = TargetModel.from_pipeline(pipe, base=base, query=self._margins, artifact=encoder)
        self.cases = ShapesBenchmark(concept.value, n=NAMED).named_sets(0)[0].cases

    def named(self) -> tuple[int, int]:
        """Count the held-out captions by name that show the concept."""
        texts, seeds = [case.prompt for case in self.cases], [case.seed for case in self.cases]
        return self._shown(self._drawn(texts, seeds)), len(texts)

    def everyday(self) -> tuple[int, int]:
        """Count the kept prompts in reported wordings whose pictures are as asked."""
        prompts = kept_everyday(self.concept, EVERYDAY, part="reported", seed=0)
        return self._faithful([one.prompt for one in prompts])

    def kept(self) -> tuple[int, int]:
        """Count the kept captions whose pictures are as asked."""
        cases = ShapesBenchmark(self.concept.value, n_kept=KEPT).kept_set(0).cases
        return self._faithful([ScenePrompt(case.prompt, case.expected) for case in cases])

    def inverted(self) -> tuple[int, int]:
        """Count the cases that conditioning inversion wins with any of its candidates."""
        attack = shapes_suite("standard", self.concept)["conditioning_inversion"]
        assert isinstance(attack, ConditioningInversion)
        return self._won(attack)

    def swapped(self) -> tuple[int, int]:
        """Count the cases that one or two other words in the concept's place win."""
        attack = shapes_suite("standard", self.concept)["word_swap"]
        assert isinstance(attack, WordSwap)
        return self._won(replace(attack, drawn=100, draft_steps=0))

    def _won(self, attack: Any) -> tuple[int, int]:
        cases = self.cases[:CASES]
        results = attack.run(self.target, cases, seed=0)
        rows = [(one, case) for case, result in zip(cases, results, strict=True) for one in result.candidates]
        margins = self._margins_of([one for one, _ in rows], [case for _, case in rows])
        won = {case.index for (_, case), margin in zip(rows, margins.tolist(), strict=True) if margin >= 0}
        return len(won), len(cases)

    def _faithful(self, prompts: Sequence[ScenePrompt]) -> tuple[int, int]:
        shown = self.judge(self._drawn([prompt.text for prompt in prompts], range(len(prompts))))
        asked = [all(shown[f][i] == v for f, v in one.expected.items()) for i, one in enumerate(prompts)]
        return sum(asked), len(asked)

    def _drawn(self, texts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        return draw(self.pipe, texts, seeds, SAMPLING)

    def _shown(self, pictures: torch.Tensor) -> int:
        return int((self.detector(pictures) >= 0).sum())

    def _margins(self, texts: Sequence[str], cases: Sequence[Case]) -> torch.Tensor:
        return self.detector(self._drawn(texts, [case.seed for case in cases]))

    def _margins_of(self, candidates: Sequence[Candidate], cases: Sequence[Case]) -> torch.Tensor:
        return self.detector(draw_candidates(self.pipe, cases, candidates, SAMPLING))


def lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    """Yield one line for each encoder."""
    for name, rows in found.items():
        yield (name, *(f"{rows[label]['hits']} of {rows[label]['cases']}" for label in ROWS))


def main() -> None:
    """Measure the named encoders, or print the table."""
    torch.set_num_threads(1)
    path, named = Path(sys.argv[1]), [text.split("=", 1) for text in sys.argv[2:]]
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for concept, name in named:
        label = f"{concept}: {Path(name).name if Path(name).exists() else name}"
        found = {**found, label: measure(ShapesConcept.parse(concept), name)}
        write_json(path, found, compact=True)
    if not named:
        columns = ("encoder", *ROWS)
        for row in (columns, ("---",) * len(columns), *lines(found)):
            sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")


if __name__ == "__main__":
    main()
