"""The trained judge of the shapes world, which names the value of each factor in a picture, or none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.hub.embedded import embedded_file

from ..pretrain.networks import LabelNet
from .networks import JudgeNet
from .pictures import as_pictures
from .vocabulary import FACTORS, VERDICTS


class Judge:
    """Classifier of pictures by shape, colour, background and style, which can answer ``none`` for each.

    Args:
        network: Trained network of the judge.
        version: Version of the weights, which results record.
    """

    name: ClassVar[str] = "shapes-judge"
    values: ClassVar[Mapping[str, tuple[str, ...]]] = VERDICTS

    def __init__(self, network: LabelNet, version: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.version = version

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return probabilities (B, values of the factor), by factor, for pictures (B, 3, 32, 32) in [0, 1].

        Raises:
            ValueError: If the pictures have another size, or values outside [0, 1].
        """
        checked = as_pictures(images)
        return {factor: logits.softmax(1) for factor, logits in self.network.logits(checked).items()}

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Return B canonical values, by factor, for pictures (B, 3, 32, 32) in [0, 1]."""
        found = self.probabilities(images)
        return {factor: [VERDICTS[factor][int(i)] for i in found[factor].argmax(1)] for factor in FACTORS}


def load_judge(path: Path | None = None) -> Judge:
    """Load the packaged judge, or the one at ``path``; its version is the start of the file's sha256.

    Raises:
        AssetsMissingError: If the package was installed without it.
    """
    return _load(path or embedded_file("shapes", "judge.safetensors"))


@cache
def _load(path: Path) -> Judge:
    network, file = JudgeNet(), read_owned(path)
    network.load_state_dict(file.tensors)
    return Judge(network, file.sha256()[:12])
