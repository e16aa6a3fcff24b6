"""UnlearnDiffAtk at its published schedule beside the standard budget: calibrate.py ENCODER OUT; about half an hour."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import robust_encoders
from robust_encoders import RobustEncoder
from robust_encoders.training.attacks import UnlearnDiffAtk
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan

ATTACKS = {"standard": UnlearnDiffAtk.standard(precision="bf16"), "published": UnlearnDiffAtk(precision="bf16")}
CONFIG = EvaluationConfig(checks=0)

if __name__ == "__main__":
    encoder = RobustEncoder.from_pretrained(sys.argv[1])
    benchmark = ShapesBenchmark(encoder.manifest.concept, n=50, n_kept=2, n_renders=2, n_probes=2)
    pipe = robust_encoders.embedded_pipeline()
    plan = replace(benchmark.plan(pipe, CONFIG), attacks=ATTACKS)
    evaluate(pipe, encoder, FixedPlan(plan), out=Path(sys.argv[2]), config=CONFIG)
