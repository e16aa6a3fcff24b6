"""Devices and precisions: whether this machine has them, before models are loaded."""

from __future__ import annotations

import re

import torch

_ELEMENTS = 4
_SHOWN = 120


def device_problems(device: str, *dtypes: str) -> list[str]:
    """Return the reasons why models cannot run on a device.

    Args:
        device: Name of the device, such as ``cpu`` or ``cuda:1``; empty for the default, which always exists.
        dtypes: Precisions that the device must compute in, by their names in torch, such as ``float16``.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if found := _absent(name):
        return [f"expected a device of this machine, {_known()}, found {device!r}: {found}; name one of them"]
    return [
        f"expected a precision that {name} computes in, found {dtype}: {reason}; choose float32, or another device"
        for dtype in dict.fromkeys(dtypes)
        if (reason := _refusal(name, dtype))
    ]


def _absent(name: str) -> str:
    """Return why a device does not exist; empty if it does."""
    try:
        device = torch.device(name)
    except RuntimeError:
        return "torch knows no such device"
    if device.type == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return "torch sees no GPU and no driver for one" if built else "this build of torch is for the CPU alone"
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} GPUs, numbered from 0"
    return _refusal(name, "float32")


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


def _known() -> str:
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    mps = getattr(torch.backends, "mps", None)
    return ", ".join([*names, *(["mps"] if mps is not None and mps.is_available() else [])])
