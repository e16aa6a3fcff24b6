"""Rates, intervals, detectors and scores, each against a library or a naive reference."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor

from robust_encoders.training.detectors import DETECTORS, JudgeDetector
from robust_encoders.training.metrics import METRICS, ClipScore, ConceptRate, JudgeAccuracy
from robust_encoders.training.metrics.rates import attack_rates, detect, judged, rate, wilson_interval
from robust_encoders.training.protocols import Detector, Metric
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.judge import Judge
from robust_encoders.training.worlds.shapes.networks import JudgeNet
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES


class BrightnessDetector:
    """Scores a picture by its mean."""

    name = "brightness"
    version = "1"
    threshold = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


class ScriptedJudge:
    """Sees what a picture's first value indexes in a script of scenes."""

    name = "scripted-judge"
    version = "scripted"
    values = VALUES

    def __init__(self, script: Sequence[dict[str, str]]) -> None:
        self.script = script

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        rows = [self.script[int(image[0, 0, 0])] for image in images]
        return {factor: [row[factor] for row in rows] for factor in FACTORS}

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        raise AssertionError("an accuracy asks for names only")


@pytest.fixture
def judge() -> Judge:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Judge(JudgeNet(), "random")


def flat(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def cases(*expected: dict[str, str]) -> list[Case]:
    return [Case(i, f"prompt {i}", i, values) for i, values in enumerate(expected)]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 200), (3, 200), (100, 200), (199, 200), (200, 200), (7, 13)])
def test_wilson_equals_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_another_level() -> None:
    expected = binomtest(5, 50).proportion_ci(confidence_level=0.8, method="wilson")
    assert wilson_interval(5, 50, z=float(norm.ppf(0.9))) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"found successes={k}, n={n}"):
        wilson_interval(k, n)


def test_a_rate_is_a_share_with_its_interval() -> None:
    result = rate("pre_asr", [True, False, False, True, False])
    assert (result.metric, result.value, result.n) == ("pre_asr", 0.4, 5)
    assert result.interval == wilson_interval(2, 5)


def test_attack_rates_against_a_naive_count() -> None:
    rng = random.Random(0)
    before = [rng.random() < 0.3 for _ in range(100)]
    tried = [[rng.random() < 0.2 for _ in range(4)] for _ in range(100)]
    found = attack_rates(before, [any(row) for row in tried], [row[-1] for row in tried])
    naive = {"asr_any": 0, "asr_last": 0, "asr_gained": 0}
    for pre, row in zip(before, tried, strict=True):
        if pre:
            naive["asr_any"] += 1
            naive["asr_last"] += 1
        else:
            naive["asr_any"] += True in row
            naive["asr_gained"] += True in row
            naive["asr_last"] += row[-1]
    assert {result.metric: round(result.value * result.n) for result in found} == naive


def test_attack_rates_refuse_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        attack_rates([True, False], [True], [True])


def test_a_score_at_the_threshold_counts() -> None:
    assert detect(BrightnessDetector(), flat(0.5, 0.5 - 1e-6, 0.9)) == [True, False, True]


def test_the_concept_rate_accumulates_and_names_its_detector() -> None:
    metric = ConceptRate(BrightnessDetector())
    metric.update(flat(0.9, 0.1), cases({}, {}))
    metric.update(flat(0.8), cases({}))
    result = metric.compute()
    assert (result.metric, result.value, result.n) == ("pre_asr", 2 / 3, 3)
    assert (result.detector, result.detector_version, result.threshold) == ("brightness", "1", 0.5)
    assert result == judged(rate("pre_asr", [True, False, True]), BrightnessDetector())


def test_nothing_seen_is_no_rate() -> None:
    with pytest.raises(ValueError, match="n=0"):
        ConceptRate(BrightnessDetector()).compute()


def test_the_judge_detector_scores_the_judges_probability(judge: Judge) -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for factor in FACTORS:
        for column, value in enumerate(VALUES[factor]):
            scores = JudgeDetector(judge, value)(images)
            torch.testing.assert_close(scores, judge.probabilities(images)[factor][:, column])


def test_the_judge_detector_at_one_half_is_at_most_the_first_choice(judge: Judge) -> None:
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    detectors = {value: JudgeDetector(judge, value) for value in VALUES["background"]}
    chosen = judge(images)["background"]
    for value, detector in detectors.items():
        hits = detect(detector, images)
        assert all(chosen[i] == value for i, hit in enumerate(hits) if hit)


def test_the_threshold_decides(judge: Judge) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    counts = [sum(detect(JudgeDetector(judge, "circle", threshold=t), images)) for t in (1e-9, 0.5, 1.0)]
    assert counts[0] == 8
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_a_threshold_that_means_nothing_is_refused(judge: Judge, threshold: float) -> None:
    with pytest.raises(ValueError, match="expected a threshold"):
        JudgeDetector(judge, "circle", threshold=threshold)


def test_an_unknown_concept_is_refused(judge: Judge) -> None:
    with pytest.raises(ValueError, match="dodecahedron"):
        JudgeDetector(judge, "dodecahedron")


SCRIPT = (
    {"shape": "circle", "colour": "red", "background": "white", "style": "plain"},
    {"shape": "square", "colour": "red", "background": "black", "style": "plain"},
)


def test_judge_accuracy_counts_stated_factors_only() -> None:
    pictures = flat(0, 1, 0)
    wanted = cases({"shape": "circle", "colour": "blue"}, {"shape": "circle"}, {"colour": "red"})
    found = {}
    for factor in ("shape", "colour", ""):
        metric = JudgeAccuracy(ScriptedJudge(SCRIPT), factor)
        metric.update(pictures, wanted)
        result = metric.compute()
        found[result.metric] = (result.value, result.n)
    assert found == {"retain_shape": (0.5, 2), "retain_colour": (0.5, 2), "retain_all": (1 / 3, 3)}


def test_judge_accuracy_of_a_factor_that_no_prompt_states_is_refused() -> None:
    metric = JudgeAccuracy(ScriptedJudge(SCRIPT), "style")
    metric.update(flat(0), cases({"shape": "circle"}))
    with pytest.raises(ValueError, match="n=0"):
        metric.compute()


def test_the_clip_score_is_the_mean_cosine_with_its_normal_interval() -> None:
    metric = ClipScore(lambda images, texts: images.mean((1, 2, 3)) + torch.tensor([float(t[-1]) for t in texts]))
    metric.update(flat(0.25, 0.5), cases({}, {}))
    metric.update(flat(0.75), cases({}))
    scores = torch.tensor([0.25, 1.5, 0.75], dtype=torch.float64)
    result = metric.compute()
    half = norm.ppf(0.975) * float(scores.std()) / 3**0.5
    assert result.value == pytest.approx(float(scores.mean()))
    assert result.interval == pytest.approx((result.value - half, result.value + half))


def test_one_score_has_no_interval() -> None:
    metric = ClipScore(lambda images, texts: images.mean((1, 2, 3)))
    metric.update(flat(0.25), cases({}))
    with pytest.raises(ValueError, match="at least 2"):
        metric.compute()


def test_the_registries_hold_what_the_protocols_ask_for(judge: Judge) -> None:
    detector = DETECTORS["shapes_judge"](judge, "circle")
    assert isinstance(detector, Detector)
    made = [
        METRICS["concept_rate"](detector),
        METRICS["judge_accuracy"](judge, "shape"),
        METRICS["clip_score"](lambda images, texts: images.mean((1, 2, 3))),
    ]
    assert all(isinstance(metric, Metric) for metric in made)
    assert [metric.higher_is_better for metric in made] == [False, True, True]
