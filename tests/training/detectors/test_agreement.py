"""The agreement of several detectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robust_encoders.training.detectors.agreement import Agreement
from robust_encoders.training.metrics.rates import detect


class Brightness:
    """Detector of one bright channel."""

    version = "1"

    def __init__(self, channel: int, threshold: float) -> None:
        self.name, self.channel, self.threshold = f"channel-{channel}", channel, threshold

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, self.channel].mean((1, 2))


def test_it_finds_exactly_what_all_members_find() -> None:
    images = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    members = [Brightness(0, 0.5), Brightness(1, 0.45)]
    both = [a and b for a, b in zip(*(detect(member, images) for member in members), strict=True)]
    agreement = Agreement(members)
    assert detect(agreement, images) == both
    assert 0 < sum(both) < 50
    assert {name: (values >= 0).tolist() for name, values in agreement.margins(images).items()} == {
        member.name: detect(member, images) for member in members
    }


def test_a_score_on_the_threshold_counts() -> None:
    assert detect(Agreement([Brightness(0, 0.5), Brightness(1, 0.5)]), torch.full((1, 3, 2, 2), 0.5)) == [True]


@pytest.mark.parametrize("channels", [(), (0,), (1, 1)])
def test_members_are_at_least_two_of_different_names(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected at least two detectors with different names"):
        Agreement([Brightness(channel, 0.5) for channel in channels])
