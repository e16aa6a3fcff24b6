"""DoCo's discriminator: a small convolutional network with an optimizer of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_WIDTHS = (64, 128, 256, 512)
# Standard deviation of the first weights, as in the papers of DCGAN and pix2pix.
_SPREAD = 0.02
_BETAS = (0.5, 0.999)


def strided_layers(side: int) -> int:
    """Return the number of layers with stride 2 for latents with ``side`` rows or columns, at most four.

    The last of them has at least two rows and columns, which the convolution after them needs.

    Raises:
        ValueError: If the latents are smaller than 4 x 4.
    """
    if side < 4:
        raise ValueError(f"expected latents of at least 4 x 4 for a discriminator, found a side of {side}")
    return min(len(_WIDTHS), int(math.log2(side)) - 1)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., CVPR 2017) on latents: one logit for each patch.

    Layers are convolutions 4 x 4 with stride 2 and 64, 128, 256 and 512 channels, each with batch normalisation, except
    the first, and LeakyReLU of slope 0.2. A convolution 4 x 4 with one channel follows. Small latents have fewer
    layers. Batch normalisation always uses the statistics of the batch.

    Args:
        shape: Shape (C, h, w) of the latents.
        generator: Generator of the first weights.

    Raises:
        ValueError: If the latents are smaller than 4 x 4.
    """

    def __init__(self, shape: tuple[int, int, int], generator: Generator) -> None:
        super().__init__()
        channels, *sides = shape
        widths = (channels, *_WIDTHS[: strided_layers(min(sides))])
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            # Batch normalisation has a shift of its own, so the convolution before it needs none.
            layers.append(_convolution(before, after, stride=2, bias=i == 0))
            layers += [nn.BatchNorm2d(after, track_running_stats=False)] if i else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, _convolution(widths[-1], 1))
        with torch.no_grad():
            for name, one in self.named_parameters():
                if one.dim() > 1:
                    one.normal_(0, _SPREAD, generator=generator)
                elif name.endswith("bias"):
                    one.zero_()

    def forward(self, latents: Tensor) -> Tensor:
        """Return logits (B, 1, rows, columns) of latents (B, C, h, w)."""
        found: Tensor = self.layers(latents)
        return found


class Adversary:
    """A discriminator in training: label 1 for the student's latents, label 0 for the frozen model's.

    Args:
        shape: Shape (C, h, w) of the latents.
        rate: Learning rate of its Adam, whose betas are 0.5 and 0.999.
        generator: Generator of the first weights.
        device: Device of the network.
    """

    def __init__(self, shape: tuple[int, int, int], rate: float, *, generator: Generator, device: torch.device) -> None:
        self.network = PatchDiscriminator(shape, generator).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, betas=_BETAS)

    def step(self, frozen: Tensor, student: Tensor) -> float:
        """Take one step on latents (B, C, h, w) of both models, and return the loss before the step.

        DoCo (Wu et al. 2025), the discriminator's loss: ``BCE(D(frozen), 0) + BCE(D(student), 1)``.
        """
        self.network.requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = _cross_entropy(self.network(frozen.detach()), 0.0) + _cross_entropy(self.network(student.detach()), 1.0)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return float(loss.detach())

    def fooled(self, student: Tensor) -> Tensor:
        """Return the student's loss (), ``BCE(D(student), 0)``; no gradient reaches the discriminator."""
        self.network.requires_grad_(False)
        return _cross_entropy(self.network(student), 0.0)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of network and optimizer by name."""
        names = [name for name, _ in self.network.named_parameters()]
        moments = self.optimizer.state_dict()["state"]
        adam = {f"adam.{names[i]}.{key}": value for i, state in moments.items() for key, value in state.items()}
        return {**{f"weight.{name}": one for name, one in self.network.state_dict().items()}, **adam}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.network.load_state_dict(dict(_under(state, "weight.")))
        moments = {
            i: dict(_under(state, f"adam.{name}.")) for i, (name, _) in enumerate(self.network.named_parameters())
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _convolution(before: int, after: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution 4 x 4 without values; its own first values would come from the global generator."""
    options: Any = {"kernel_size": 4, "stride": stride, "padding": 1, "bias": bias}
    made: nn.Conv2d = skip_init(nn.Conv2d, before, after, **options)  # type: ignore[no-untyped-call]  # as torch leaves it
    return made


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _under(state: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), one) for name, one in state.items() if name.startswith(prefix))
