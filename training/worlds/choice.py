"""The base of a command: the one that it states, or the embedded one that its encoders were made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.errors import BaseLoadError, ManifestError
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.hub.embedded import EMBEDDED_BASES, embedded_name, warn_of_namesake
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.dtypes import dtype_of
from robust_encoders.utils.home import expanded

from ..diffusion.devices import device_problems
from ..diffusion.load import OpenedBase, UNetDtype, open_base
from ..protocols import EmbeddedBase
from . import BASES, DEFAULT_BASE


def world_of(base: str | Path | None) -> EmbeddedBase | None:
    """Return the embedded base that the name of a pipeline stands for; None for any other pipeline.

    The name of an embedded base always stands for it. A pipeline in a folder of that name is written ``./NAME``.

    Args:
        base: Name of a pipeline; None stands for the default base.
    """
    name = embedded_name(base, BASES)
    return BASES[name]() if name else None


def open_named(
    base: str | Path | None,
    *,
    dtype: UNetDtype | torch.dtype = "float32",
    device: str = "",
    whole: bool = False,
    two: bool = False,
) -> OpenedBase:
    """Load the base that a name stands for: an embedded one, of another package too, or any other pipeline.

    Args:
        base: Name of an embedded base, folder, or Hub id; None stands for the default base.
        dtype: Precision of the UNet; see :func:`robust_encoders.training.diffusion.load.open_base`. With ``whole``,
            precision of all weights. Without it, an embedded base is in float32. A dtype of torch, or its name.
        device: Device of the pipeline; empty for a GPU if there is one, and for the CPU with an embedded base.
        whole: True to keep the autoencoder, which drawing pictures needs; an embedded base has all components anyway.
        two: True to accept a base with two text encoders, as SDXL has.

    Raises:
        BaseLoadError: If the pipeline or the device does not exist, or the pipeline is of another kind.
        AssetsMissingError: If the package was installed without that embedded base.
        ValueError: If ``dtype`` is no precision.
    """
    precision = dtype_of(dtype)
    world = world_of(base)
    if world is None:
        return open_base(base, dtype=precision, device=device, whole=whole, two=two)
    if problems := device_problems(device) if device else []:
        raise BaseLoadError(problems[0])
    if base is not None:
        warn_of_namesake(world.name)
    pipe = world.pipeline()
    if whole and precision != torch.float32:
        pipe = pipe.to(precision)
    return OpenedBase(pipe.to(device) if device else pipe, world.name)


def embedded_base_of(names: Iterable[str | Path]) -> str:
    """Return the embedded base that encoders are for, as names and manifests tell it before anything is loaded.

    Args:
        names: Names of encoders such as ``emoji/alcohol``, and folders. A name that is neither tells nothing.

    Returns:
        Name of the base; empty if encoders are for several bases, or one of them tells no embedded base.
    """
    found = {_base_told_by(name) for name in names}
    return next(iter(found)) if len(found) == 1 else ""


def _base_told_by(name: str | Path) -> str:
    told, slash, _ = str(name).partition("/")
    if isinstance(name, str) and (name in CATALOG or (slash and told in EMBEDDED_BASES)):
        return told if told in EMBEDDED_BASES else ""  # no folder takes the place of such a name
    folder = expanded(name)
    if folder.exists():
        try:
            told = Manifest.read(folder).base.family
        except ManifestError:  # the encoder is loaded later, and this is said then
            return ""
    elif not slash:
        return ""
    return told if told in BASES else ""


def base_of_encoders(base: str | None, encoders: Iterable[LoadedArtifact]) -> str | None:
    """Return the base of a command: the stated one, or the embedded one that its encoders were made from.

    Args:
        base: Stated folder, Hub id, or name of an embedded base; empty or None if none is stated.
        encoders: Encoders of the command.

    Returns:
        The base; None for the default one.
    """
    made = _by_world(encoders)
    return base or (next(iter(made)) if len(made) == 1 else None)


def other_world_problems(base: str | None, encoders: Iterable[LoadedArtifact]) -> list[str]:
    """Return the reason why encoders cannot have been made from one base, as far as embedded bases are concerned.

    Args:
        base: Base of the command: a folder, a Hub id, or the name of an embedded base; empty or None for the default.
        encoders: Encoders of the command.
    """
    made, world = _by_world(encoders), world_of(base or None)
    if len(made) > 1:
        found = ", ".join(f"{' and '.join(labels)} made from {family}" for family, labels in sorted(made.items()))
        return [f"expected encoders made from one base, found {found}; name those of one base in a command"]
    others = [family for family in made if world is not None and family != world.name]
    return [
        f"expected encoders made from the base {base or DEFAULT_BASE}, found {' and '.join(made[family])} made from "
        f"{family}; write --base {family}"
        for family in others
    ]


def _by_world(encoders: Iterable[LoadedArtifact]) -> Mapping[str, list[str]]:
    """Return the embedded bases that encoders were made from, with the encoders' labels."""
    made: dict[str, list[str]] = {}
    for one in encoders:
        if one.manifest.base.family in BASES:
            made.setdefault(one.manifest.base.family, []).append(one.label)
    return made
