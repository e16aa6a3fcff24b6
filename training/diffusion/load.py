"""The pipeline that an encoder is made from: the embedded one, a folder, or one on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import robust_encoders
from robust_encoders.cli.main import UsageError
from robust_encoders.conversion.text_config import family_of

UNetDtype = Literal["float32", "float16", "bfloat16"]
# What training never looks at. A pipeline accepts None in their place.
_UNUSED: dict[str, Any] = {"vae": None, "safety_checker": None, "feature_extractor": None}
_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class OpenedBase:
    """A pipeline and what is known of where it is from.

    Args:
        pipe: Without autoencoder and safety checker, unless it is the embedded one.
        family: Line of bases that it belongs to, by the size of its text encoder; empty where none is known.
        ids: Hub ids.
        revision: Commit of the first of them.
    """

    pipe: Any
    family: str = ""
    ids: tuple[str, ...] = ()
    revision: str = ""


def open_base(name: str | None, *, dtype: UNetDtype = "float32", device: str = "") -> OpenedBase:
    """Load a base for training: text encoder and tokenizer, UNet and noise schedule.

    Args:
        name: Folder with a ``model_index.json``, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub; None stands for
            the embedded base.
        dtype: Of the UNet, which is never trained; text encoders are always loaded in float32.
        device: By default a GPU if there is one, but the embedded base stays on the CPU.

    Raises:
        UsageError: If there is no such pipeline, diffusers cannot load it, or its weights are pickles.
    """
    if name is None:
        pipe: Any = robust_encoders.embedded_pipeline()
        return OpenedBase(pipe.to(device) if device else pipe, "shapes")
    folder, ids, revision = _located(name)
    pipe = _loaded(folder, dtype)
    family = family_of(pipe.text_encoder.config.to_dict())
    placed = pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return OpenedBase(placed, family if family.isalnum() else "", ids, revision)


def _located(name: str) -> tuple[Path, tuple[str, ...], str]:
    """Return the folder of a pipeline, fetched if need be, its Hub id and its commit."""
    folder = Path(name).expanduser()
    if (folder / "model_index.json").is_file():
        return folder, (), ""
    found = _HUB.fullmatch(name)
    if found is None or folder.exists():
        raise UsageError(
            f"expected a folder with a diffusers pipeline, or its Hub id as ORG/NAME or ORG/NAME@REVISION, found no "
            f"model_index.json in {name!r}"
        )
    from diffusers import DiffusionPipeline

    try:
        fetched = DiffusionPipeline.download(found["repo"], revision=found["revision"], use_safetensors=True, **_UNUSED)
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a diffusers pipeline as {name!r} on the Hub, cannot fetch it: {error}") from error
    # The client keeps every commit in a folder of its name.
    commit = Path(fetched).name
    return Path(fetched), (found["repo"],), commit if _COMMIT.fullmatch(commit) else ""


def _loaded(folder: Path, dtype: UNetDtype) -> Any:
    from diffusers import DiffusionPipeline

    dtypes = {"unet": getattr(torch, dtype), "default": torch.float32}
    try:
        return DiffusionPipeline.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtypes,
            requires_safety_checker=False,
            **_UNUSED,
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"expected a complete pipeline with safetensors in {folder}, diffusers cannot load it: {error}"
        ) from error
