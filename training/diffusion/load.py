"""The pipeline that an encoder is made from or judged on: the embedded one, a folder, or one on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from robust_encoders.conversion.text_config import family_of
from robust_encoders.hub.embedded import EMBEDDED_FAMILY
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline

UNetDtype = Literal["float32", "float16", "bfloat16"]
# What training never looks at.
_UNUSED = ("vae", "safety_checker", "feature_extractor")


@dataclass(frozen=True)
class OpenedBase:
    """A pipeline and what is known of where it is from.

    Args:
        pipe: Pipeline of diffusers, without a safety checker; with an autoencoder if it was opened whole or is the
            embedded one.
        family: Line of bases that it belongs to, by the size of its text encoder; empty where none is known.
        ids: Hub ids.
        revision: Commit of the first of them.
    """

    pipe: Any
    family: str = ""
    ids: tuple[str, ...] = ()
    revision: str = ""


def open_base(
    name: str | Path | None, *, dtype: UNetDtype = "float32", device: str = "", whole: bool = False
) -> OpenedBase:
    """Load a base: text encoder and tokenizer, UNet and noise schedule, and the autoencoder if it is to be whole.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub; None stands for
            the embedded base.
        dtype: Precision of the UNet, which is never trained, with text encoders in float32; of every weight if whole.
        device: By default a GPU if there is one, but the embedded base stays on the CPU.
        whole: Keep the autoencoder, for drawing pictures, and accept weights that are pickles, as diffusers does.

    Raises:
        BaseLoadError: If there is no such pipeline or device, diffusers cannot load it, or its weights are pickles and
            it is not opened whole.
    """
    if name is not None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_pipeline(name, _whole(dtype, device) if whole else _for_training(dtype, device))
    if name is None:
        return OpenedBase(loaded.pipe, EMBEDDED_FAMILY)
    family = family_of(loaded.pipe.text_encoder.config.to_dict())
    return OpenedBase(loaded.pipe, family if family.isalnum() else "", loaded.ids, loaded.revision)


def _whole(dtype: UNetDtype, device: str) -> PipelineOptions:
    return PipelineOptions(dtype=getattr(torch, dtype), device=device, without=("safety_checker",))


def _for_training(dtype: UNetDtype, device: str) -> PipelineOptions:
    dtypes = {"unet": getattr(torch, dtype), "default": torch.float32}
    return PipelineOptions(dtype=dtypes, device=device, without=_UNUSED, safetensors=True)
