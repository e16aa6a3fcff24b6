"""The network of the shapes world's judge."""

from __future__ import annotations

from ..pretrain.networks import LabelNet
from .vocabulary import FACTORS, VALUES, VERDICTS

LABELS = {factor: len(VALUES[factor]) for factor in FACTORS}


class JudgeNet(LabelNet):
    """Network with one classifier for each factor, over shared features; each can answer ``none``."""

    def __init__(self) -> None:
        super().__init__({factor: len(VERDICTS[factor]) for factor in FACTORS})
