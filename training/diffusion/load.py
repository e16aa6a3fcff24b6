"""Loading of the base, the pipeline that an encoder is made from or judged on: embedded, in a folder, or on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from robust_encoders.artifact.fingerprint import dtype_name
from robust_encoders.errors import BaseLoadError
from robust_encoders.hub.embedded import embedded_name
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline, require_place
from robust_encoders.utils.dtypes import dtype_of

from .base_configs import configs_of
from .base_kind import kind_problems
from .devices import device_problems

UNetDtype = Literal["float32", "float16", "bfloat16"]
# Components that training never uses.
_UNUSED = ("vae", "safety_checker", "feature_extractor")


@dataclass(frozen=True)
class OpenedBase:
    """A pipeline and its origin, as far as it is known.

    Args:
        pipe: Pipeline of diffusers without a safety checker. It has an autoencoder if it was opened with ``whole`` or
            is embedded.
        family: Family of bases that the pipeline belongs to, by the size of its text encoder; empty if unknown.
        ids: Hub ids of the pipeline.
        revision: Commit of the first Hub id.
    """

    pipe: Any
    family: str = ""
    ids: tuple[str, ...] = ()
    revision: str = ""


def open_base(
    name: str | Path | None,
    *,
    dtype: UNetDtype | torch.dtype = "float32",
    device: str = "",
    whole: bool = False,
    two: bool = False,
) -> OpenedBase:
    """Load a base: tokenizer, text encoder, UNet and noise schedule, and with ``whole`` the autoencoder.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub, or the name of an
            embedded base; None stands for the default one.
        dtype: Precision of the UNet, which is never trained; text encoders are in float32. With ``whole``, precision of
            all weights. A dtype of torch, or its name.
        device: Device of the pipeline. The default is a GPU if there is one; an embedded base stays on the CPU.
        whole: True to keep the autoencoder, which drawing pictures needs, and to accept weights stored as pickles, as
            diffusers does.
        two: True to accept a base with two text encoders, as SDXL has.

    Raises:
        BaseLoadError: If the pipeline or the device does not exist, the pipeline is of another kind, such as one for
            inpainting, diffusers cannot load it, or its weights are pickles and ``whole`` is False.
        ValueError: If ``dtype`` is no precision.
    """
    precision = dtype_of(dtype)
    embedded = embedded_name(name)
    if name is not None and not embedded:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        require_base(name, device=device, dtype=precision, draws=whole, two=two)
    elif problems := device_problems(device) if device else []:
        raise BaseLoadError(problems[0])
    loaded = load_pipeline(name, _whole(precision, device) if whole else _for_training(precision, device))
    family = loaded.family
    return OpenedBase(loaded.pipe, family if family.isalnum() else "", loaded.ids, loaded.revision)


def require_base(name: str | Path, *, device: str, dtype: torch.dtype, draws: bool, two: bool = False) -> None:
    """Check a base by its configurations, and the device, before weights are fetched or loaded.

    Args:
        name: Folder or Hub id.
        device: Device of the pipeline.
        dtype: Precision of the UNet.
        draws: True if the pipeline itself shall draw pictures.
        two: True to accept a base with two text encoders, as SDXL has.

    Raises:
        BaseLoadError: If there is no such base, it is of another kind, or the device or its precision does not exist;
            the message lists everything.
    """
    require_place(name)
    problems = device_problems(device, dtype_name(dtype))
    configs = configs_of(name, draws=draws)
    if configs is not None:
        problems += kind_problems(configs, draws=draws, two=two)
    if problems:
        raise BaseLoadError("; ".join(problems))


def _whole(dtype: torch.dtype, device: str) -> PipelineOptions:
    return PipelineOptions(dtype=dtype, device=device, without=("safety_checker",))


def _for_training(dtype: torch.dtype, device: str) -> PipelineOptions:
    dtypes = {"unet": dtype, "default": torch.float32}
    return PipelineOptions(dtype=dtypes, device=device, without=_UNUSED, safetensors=True)
