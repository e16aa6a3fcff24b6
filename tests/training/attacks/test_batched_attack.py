"""UnlearnDiffAtk on 32 prompts at once against one at a time: the same success, in a fraction of the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

import robust_encoders
from robust_encoders.training.attacks import UnlearnDiffAtk
from robust_encoders.training.detectors import JudgeDetector
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.judging import PictureJudge, judge_candidates
from robust_encoders.training.metrics.paired_tests import paired_test
from robust_encoders.training.metrics.rates import detect, wilson_interval
from robust_encoders.training.types import AttackResult, Case
from robust_encoders.training.worlds.shapes.judge import load_judge

SAMPLING = SamplingConfig()
N = 32


def timed(attack: UnlearnDiffAtk, target: Backbone, cases: Sequence[Case]) -> tuple[list[AttackResult], float]:
    start = time.perf_counter()
    return attack.run(target, cases, seed=0), time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.base
def test_thirty_two_prompts_at_once_win_as_often_as_one_at_a_time_and_take_less_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = robust_encoders.embedded_pipeline()
    target, detector = Backbone.from_pipeline(pipe), JudgeDetector(load_judge(), "circle")
    cases = ShapesBenchmark("circle", n=N, captions="open").plain_sets(0)[0].cases
    seeds = [case.seed for case in cases]
    latents = draw(pipe, [case.wanted for case in cases], seeds, SAMPLING, latents=True)
    cases = tuple(replace(case, reference_latent=latent) for case, latent in zip(cases, latents, strict=True))
    before = detect(detector, draw(pipe, [case.prompt for case in cases], seeds, SAMPLING))
    won, seconds = {}, {}
    for batch in (N, 1):
        found, seconds[batch] = timed(UnlearnDiffAtk.standard(batch=batch), target, cases)
        verdicts, _ = judge_candidates(
            cases,
            found,
            before,
            draw=lambda c, k: draw_candidates(pipe, c, k, SAMPLING),
            judge=PictureJudge(detector),
        )
        won[batch] = [verdict.any for verdict in verdicts]
    paired = paired_test(won[N], won[1])
    lines = [f"ratio {seconds[1] / seconds[N]:.2f}; unattacked {sum(before)}; McNemar p {paired.p_exact:.3f}"]
    for batch, flags in won.items():
        low, high = wilson_interval(sum(flags), N)
        lines.append(f"batch {batch}: {sum(flags)} of {N} [{low:.3f}, {high:.3f}], search {seconds[batch]:.1f} s")
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert paired.p_exact > 0.05
    assert seconds[1] > 2 * seconds[N]
