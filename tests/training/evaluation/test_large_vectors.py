"""One learned vector of large norm brings an erased concept back, and no search is needed to find it.

Study: ``pytest -m slow -s tests/training/evaluation/test_large_vectors.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import robust_encoders
from robust_encoders import CompatibilityWarning, RobustEncoder
from robust_encoders.pipeline.learned_vectors import LIMIT, row_norms, token_embeddings
from robust_encoders.training.detectors import JudgeDetector
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.metrics.rates import detect, wilson_interval
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.judge import load_judge

N = 64
TOKEN = "<long>"


def final_norm(encoder: Any) -> Any:
    return getattr(encoder, "text_model", encoder).final_layer_norm


@torch.no_grad()
def direction(pipe: Any, robust: RobustEncoder, prompt: str) -> Tensor:
    """Return the unit vector (D,) that the last norm maps to the base's conditioning of a prompt's end."""
    inputs = pipe.tokenizer(prompt, return_tensors="pt")
    wanted = pipe.text_encoder(inputs.input_ids)[0][0, -1]  # (D,)
    norm = final_norm(robust.text_encoder())
    raw: Tensor = (wanted - norm.bias) / norm.weight
    unit: Tensor = (raw - raw.mean()) / (raw - raw.mean()).norm()
    return unit


@pytest.mark.slow
@pytest.mark.base
def test_one_vector_of_large_norm_brings_a_concept_back(capsys: pytest.CaptureFixture[str]) -> None:
    pipe: Any = robust_encoders.embedded_pipeline()
    robust: Any = RobustEncoder.from_pretrained("shapes/circle")
    detector, sampling = JudgeDetector(load_judge(), "circle"), SamplingConfig()
    cases = ShapesBenchmark("circle", n=N, captions="open").plain_sets(0)[0].cases
    seeds = [case.seed for case in cases]
    vector = direction(pipe, robust, "a red circle on a white background")
    largest = float(row_norms(token_embeddings(pipe.text_encoder)).max())

    def circles(cases: Sequence[Case], before: str = "") -> int:
        return sum(detect(detector, draw(pipe, [before + case.prompt for case in cases], seeds, sampling)))

    with robust.attached(pipe):
        found = {"no token": circles(cases)}
    for times in (1.0, LIMIT, 100.0, 1000.0, 1e3 / largest):
        pipe.load_textual_inversion({TOKEN: times * largest * vector})
        with (
            pytest.warns(CompatibilityWarning, match="learned"),
            robust.attached(pipe, allow_large_vectors=True),
        ):
            found[f"norm {times * largest:.3g} ({times:.0f} times)"] = circles(cases, f"{TOKEN} ")
        pipe.unload_textual_inversion()
    lines = [f"{name}: {n} of {N} {[round(b, 3) for b in wilson_interval(n, N)]}" for name, n in found.items()]
    with capsys.disabled():
        sys.stdout.write("\n".join(["", f"largest of the vocabulary {largest:.3f}", *lines, ""]))
    counts = list(found.values())
    assert counts[0] == counts[1] == 0
    assert counts[-1] > 0.1 * N
