"""Conversion of pictures to the bytes that published detectors and their preprocessing expect."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return pictures (B, 3, H, W) in [0, 1] as bytes (B, H, W, 3).

    Raises:
        ValueError: If the tensor holds no RGB pictures, or values lie outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"expected RGB pictures (B, 3, H, W), found {tuple(images.shape)}")
    if not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError("expected pictures in [0, 1]; divide bytes by 255, or map [-1, 1] by x / 2 + 0.5")
    scaled: NDArray[np.uint8] = (images.detach().float().cpu() * 255).round().to(torch.uint8).numpy()
    return scaled.transpose(0, 2, 3, 1)
