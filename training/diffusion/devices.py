"""Devices and precisions: whether this machine has them, before models are loaded."""

from __future__ import annotations

import re

import torch

from robust_encoders.utils.devices import device_problem

_ELEMENTS = 4
_SHOWN = 120


def device_problems(device: str, *dtypes: str) -> list[str]:
    """Return the reasons why models cannot run on a device.

    Args:
        device: Name of the device, such as ``cpu`` or ``cuda:1``; empty for the default, which always exists.
        dtypes: Precisions that the device must compute in, by their names in torch, such as ``float16``.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if problem := device_problem(device):
        return [problem]
    if found := _refusal(name, "float32"):
        return [f"expected a device that computes, found {device!r}: {found}; choose another device"]
    return [
        f"expected a precision that {name} computes in, found {dtype}: {reason}; choose float32, or another device"
        for dtype in dict.fromkeys(dtypes)
        if (reason := _refusal(name, dtype))
    ]


def _refusal(name: str, dtype: str) -> str:
    """Return the error of a small convolution and product on a device; empty if they work."""
    try:
        kind = getattr(torch, dtype)
        pixels = torch.ones(1, 1, _ELEMENTS, _ELEMENTS, device=name, dtype=kind)
        total = torch.nn.functional.conv2d(pixels, pixels[:, :, :1, :1]).flatten(2) @ pixels.flatten(2).mT
        # Reading the value waits for the device; the device "meta" has no values.
        if float(total) != _ELEMENTS**2:
            return f"it computes {float(total)} instead of {_ELEMENTS**2}"
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        return re.split(r"\. |\n", str(error))[0][:_SHOWN] or type(error).__name__
    return ""
