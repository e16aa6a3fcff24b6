"""The features of the judge of the shapes world; see ``worlds.judge_features``."""

from __future__ import annotations

from ..judge_features import NetworkFeatures
from .judge import Judge, load_judge


class JudgeFeatures(NetworkFeatures):
    """The features (B, 96) that FID and KID compare on the shapes world.

    Args:
        judge: Judge whose network gives the features; None takes the packaged judge.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        super().__init__(judge or load_judge())
