"""The judge's network of the shapes world."""

from __future__ import annotations

from ..pretrain.networks import LabelNet
from .vocabulary import FACTORS, VALUES

LABELS = {factor: len(VALUES[factor]) for factor in FACTORS}


class JudgeNet(LabelNet):
    """One classifier per factor over shared features."""

    def __init__(self) -> None:
        super().__init__(LABELS)
