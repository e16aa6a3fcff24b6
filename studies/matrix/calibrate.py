"""UnlearnDiffAtk at its published schedule beside the standard budget: calibrate.py ENCODER OUT; about half an hour."""

from __future__ import annotations

import sys
from pathlib import Path

import robust_encoders
from robust_encoders import RobustEncoder
from robust_encoders.training.attacks import UnlearnDiffAtk
from robust_encoders.training.evaluation.benchmarks.shapes import EvaluationSettings
from robust_encoders.training.evaluation.evaluate import evaluate

INNER_ATTACKS = {"standard": UnlearnDiffAtk.standard(precision="bf16"), "published": UnlearnDiffAtk(precision="bf16")}
SETTINGS = EvaluationSettings(n=50, n_kept=2, n_renders=2, n_probes=2, checks=0)

if __name__ == "__main__":
    encoder = RobustEncoder.from_pretrained(sys.argv[1])
    concept = encoder.manifest.concept.name
    pipe = robust_encoders.embedded_pipeline()
    evaluate(pipe, encoder, concept, settings=SETTINGS, out=Path(sys.argv[2]), attacks=INNER_ATTACKS)
