"""The trained judge of the emoji world, which names thing, drawing style and background of a picture, or none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from robust_encoders.artifact.embedded_bases import REINSTALL
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.errors import IntegrityError
from robust_encoders.hub.embedded import embedded_file

from ..pretrain.config import NetworkConfig
from ..pretrain.networks import LabelNet
from .settings import NETWORKS
from .things import Things, load_things
from .vocabulary import BACKGROUND_NAMES, NONE, STYLE_NAMES

_BATCH = 100


class EmojiJudge:
    """Classifier of pictures by thing, style and background, which can answer ``none`` for each.

    Args:
        network: Trained network of the judge.
        version: Version of the weights, which results record.
        things: Things of the world.
        side: Side of the pictures in pixels.
    """

    name: ClassVar[str] = "emoji-judge"

    def __init__(self, network: LabelNet, version: str, things: Things, side: int = NETWORKS.side) -> None:
        self.network = network.eval().requires_grad_(False)
        self.version = version
        self.side = side
        self.values = answers(things)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return probabilities (B, values of the label), by label, for pictures (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: If the pictures have another size, or values outside [0, 1].
        """
        checked = as_pictures(images, self.side)
        found = [self.network.logits(part) for part in torch.split(checked, _BATCH)]
        return {label: torch.cat([logits[label] for logits in found]).softmax(1) for label in self.values}

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Return B canonical values, by label, for pictures (B, 3, H, W) in [0, 1]."""
        found = self.probabilities(images)
        return {label: [names[int(i)] for i in found[label].argmax(1)] for label, names in self.values.items()}


def answers(things: Things) -> dict[str, tuple[str, ...]]:
    """Return the answers of a judge of the world, by label; the last one is ``none``."""
    return {
        "thing": (*things.names, NONE),
        "style": (*STYLE_NAMES, NONE),
        "background": (*BACKGROUND_NAMES, NONE),
    }


def load_judge(
    path: Path | None = None, *, things: Things | None = None, networks: NetworkConfig = NETWORKS
) -> EmojiJudge:
    """Load the packaged judge, or the one at ``path``; its version is the start of the file's sha256.

    Args:
        path: File of the weights; None takes the packaged one.
        things: Things that it tells apart; None takes the packaged list.
        networks: Sizes of the networks of its base.

    Raises:
        AssetsMissingError: If the package was installed without the base.
        IntegrityError: If the file is no judge of these things.
    """
    return _load(path or embedded_file("emoji", "judge.safetensors"), things or load_things(), networks)


@cache
def _load(path: Path, things: Things, networks: NetworkConfig) -> EmojiJudge:
    labels = {label: len(values) for label, values in answers(things).items()}
    network, file = LabelNet(labels, networks.judge_channels, networks.side), read_owned(path)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in file.tensors.items()}:
        raise IntegrityError(
            f"expected a judge of {len(things.things)} things in {path}, found other weights; {REINSTALL}, or "
            "build your own base again by `robust-encoders emoji build --out FOLDER`"
        )
    network.load_state_dict(file.tensors)
    return EmojiJudge(network, file.sha256()[:12], things, networks.side)


def as_pictures(images: Tensor, side: int) -> Tensor:
    """Return pictures (B, 3, side, side) in [0, 1] as float32 on the CPU.

    Raises:
        ValueError: If the pictures have another size, or values outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1:] != (3, side, side):
        raise ValueError(f"expected pictures (B, 3, {side}, {side}), found {tuple(images.shape)}")
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError(
            "expected pictures in [0, 1], found values outside; divide bytes by 255, or map [-1, 1] by x / 2 + 0.5"
        )
    return images.float().cpu()
