"""Count how often the base draws the concept for captions of each anchor: anchors.py CONCEPT OUT.

Each anchor takes two minutes. A black-box attack adds words to the captions. Neither the captions nor the words that
the attack may add name the concept. So a success is a picture that the base draws between two neighbouring values. An
encoder that maps the concept onto one of these neighbours inherits it. The file OUT gets the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.training.attacks import BlackBox
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.losses import gram_distance
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.provenance import write_json
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.concepts import additions, factor_of, shapes_concept
from robust_encoders.training.worlds.shapes.vocabulary import VALUES, WORDS

N, BUDGET, SAMPLING = 16, 40, SamplingConfig()


def measured(name: str) -> list[dict[str, Any]]:
    """Return one row for each anchor: its distance from the concept, and how many captions the attack wins."""
    factor, value = factor_of(name)
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    base = Backbone.from_pipeline(pipe)
    benchmark = ShapesBenchmark(name, n=N, n_kept=2, n_probes=2)
    plan = benchmark.plan(pipe, EvaluationConfig())
    detector, named = plan.detector, plan.plain[0].cases
    words, neighbours = additions(benchmark.erased)
    near = tuple(w for w in neighbours if w not in WORDS[factor][value])
    attack = BlackBox(words, near, budget=BUDGET, draft_steps=0)

    def margins(texts: Sequence[str], cases: Sequence[Case]) -> Tensor:
        scores = detector(draw(pipe, texts, [case.seed for case in cases], SAMPLING))
        beyond: Tensor = scores - detector.threshold
        return beyond

    rows = []
    for anchor in (v for v in VALUES[factor] if v != value):
        concept = shapes_concept(name, anchor)
        texts = concept.prompts[:64]
        with torch.no_grad():
            both = base.condition(texts), base.condition([anchor_prompt(text, concept) for text in texts])
        far = float(gram_distance(*both, base.text_gram().to(both[0])).mean())
        cases = [replace(case, prompt=anchor_prompt(case.prompt, concept)) for case in named]
        found = attack.run(TargetModel.from_pipeline(pipe, base=base, query=margins), cases, seed=0)
        drawn = draw_candidates(pipe, cases, [one.candidates[0] for one in found], SAMPLING)
        won = int((detector(drawn) >= detector.threshold).sum())
        rows.append({"anchor": anchor, "distance": far, "won": won, "n": N, "interval": wilson_interval(won, N)})
    return rows


def main(name: str, out: Path) -> None:
    """Measure, write and print the rows; printed distances are in units of the nearest anchor's."""
    rows = measured(name)
    write_json(out, {"concept": name, "rows": rows})
    nearest = min(row["distance"] for row in rows)
    for row in sorted(rows, key=lambda row: row["distance"]):
        sys.stdout.write(f"| {row['anchor']} | {row['distance'] / nearest:.1f} | {row['won']} of {row['n']} |\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
