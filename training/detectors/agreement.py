"""A detector that finds a concept only where all of several detectors find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..protocols import Detector


class Agreement:
    """Detector whose score is the smallest margin of its members, so that it finds what all of them find.

    A margin is a member's score minus its threshold. One judge can be fooled by a picture that resembles nothing it was
    trained on. Two judges that work in different ways are seldom fooled by the same picture.

    Args:
        members: Detectors of the same concept, at least two, each with a name of its own.

    Raises:
        ValueError: If there are fewer than two members, or two have the same name.
    """

    threshold = 0.0

    def __init__(self, members: Sequence[Detector]) -> None:
        names = [member.name for member in members]
        if len(names) < 2 or len({*names}) < len(names):
            raise ValueError(
                f"expected at least two detectors with different names, found {', '.join(names) or 'none'}"
            )
        self.members = tuple(members)
        self.name = " and ".join(names)
        self.version = ", ".join(f"{member.name} {member.version}" for member in members)

    def margins(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return margins (B,) by member for pictures (B, 3, H, W) in [0, 1]; at 0 or above it finds the concept."""
        return {member.name: member(images).cpu() - member.threshold for member in self.members}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the smallest margin (B,) for pictures (B, 3, H, W) in [0, 1]."""
        return torch.stack(list(self.margins(images).values())).amin(0)
