"""Everyday wordings around captions of any kind: what they say, and a difference that is paired."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks.reworded import WORDINGS, RewordedRetention, reworded
from robust_encoders.training.evaluation.plan import PromptSet, SetProbe
from robust_encoders.training.metrics.clip_score import mean_score
from robust_encoders.training.reports.metric_labels import metric_label
from robust_encoders.training.types import Case

CAPTIONS = [f"A dog on hill {i}." for i in range(30)]
KEPT = PromptSet("captions", tuple(Case(i, text, 40 + i) for i, text in enumerate(CAPTIONS)))
SAMPLING = SamplingConfig(steps=2, guidance=3.0)


def scorer(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Return a picture's first number, plus one hundred if it is scored with anything but the caption itself."""
    return images[:, 0, 0, 0] + 100.0 * torch.tensor([text not in CAPTIONS for text in texts])


def probe(seed: int = 0) -> RewordedRetention:
    return RewordedRetention(KEPT, scorer, SAMPLING, seed, {"scorer": "first"})


def test_all_wordings_take_turns_around_the_captions() -> None:
    made = probe()
    assert isinstance(made, SetProbe)
    (own, by_base), (again, base) = made.drawings()
    assert (by_base, base, own) == (False, True, again)
    assert [case.seed for case in own.cases] == [case.seed for case in KEPT.cases]
    assert len({*WORDINGS}) == len(WORDINGS) >= 20
    used = {re.sub(r"dog on hill \d+", "", case.prompt, flags=re.IGNORECASE) for case in own.cases}
    assert len(used) == len(WORDINGS)
    assert all(f"dog on hill {i}" in case.prompt.lower() for i, case in enumerate(own.cases))
    assert own.cases[0].prompt == own.cases[len(WORDINGS)].prompt.replace(f"hill {len(WORDINGS)}", "hill 0")
    assert probe(1).described() != made.described()


def test_full_stops_and_capitals_of_the_caption_do_not_stay_in_the_middle_of_a_sentence() -> None:
    assert reworded("please draw {}", "A red car. ") == "please draw a red car"
    assert reworded("SHOW ME {}", "A red car.") == "SHOW ME A RED CAR"
    assert reworded("{}, please", "NASA rocket") == "NASA rocket, please"
    assert reworded("{}!", "I ride") == "I ride!"


def test_scores_are_those_of_the_captions_and_the_difference_is_paired() -> None:
    noise = torch.rand(30, generator=torch.Generator().manual_seed(0))

    def pictures(prompts: PromptSet, *, base: bool = False) -> Tensor:
        return (noise + (0.25 if base else 0.0)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    own, base, difference = probe().compare(pictures)
    assert own.metric == "clip_everyday"
    assert own.value == pytest.approx(float(noise.double().mean()))
    assert base.interval == pytest.approx(mean_score("", (noise + 0.25).tolist(), {}).interval, abs=1e-6)
    assert difference.value == pytest.approx(-0.25, abs=1e-6)
    assert difference.interval == pytest.approx((-0.25, -0.25), abs=1e-6)  # the same noise in every pair
    assert (own.unet_calls, difference.unet_calls) == (30 * 4, 0)
    assert {metric_label(result).group for result in (own, base, difference)} == {"everyday"}


def test_one_caption_has_no_interval() -> None:
    with pytest.raises(ValueError, match="expected at least 2 captions, found 1: name more kept prompts"):
        RewordedRetention(KEPT.part(slice(0, 1)), scorer, SAMPLING, 0)
