"""What an export says: where an application wants the file, how to see that it is on, and what got lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from robust_encoders.artifact.fingerprint import dtype_name
from robust_encoders.artifact.forms import PROJECTED
from robust_encoders.artifact.reader import Artifact

Target = Literal["comfyui", "a1111", "invokeai", "sdcpp", "diffusers", "openclip"]
Kind = Literal["text encoder", "checkpoint", "pipeline", "lora", "unet"]
TARGETS: tuple[Target, ...] = ("comfyui", "a1111", "invokeai", "sdcpp", "diffusers", "openclip")
APPS: Mapping[Target, str] = {
    "comfyui": "ComfyUI", "a1111": "A1111", "invokeai": "InvokeAI", "sdcpp": "stable-diffusion.cpp",
    "diffusers": "diffusers", "openclip": "OpenCLIP",
}  # fmt: skip
# Whether an application reads a base as one file or as the folder of a pipeline.
BASES: Mapping[Target, Kind] = {
    "comfyui": "checkpoint", "a1111": "checkpoint", "sdcpp": "checkpoint", "invokeai": "pipeline",
    "diffusers": "pipeline",
}  # fmt: skip
WHAT: Mapping[Kind, str] = {
    "text encoder": "a text encoder",
    "checkpoint": "a whole checkpoint",
    "pipeline": "the folder of a whole pipeline",
    "lora": "a LoRA",
    "unet": "changed tensors of a UNet",
}
# Sizes (width, layers) of the text encoders of SD 1 and 2, the only ones that these applications build.
_KNOWN = ((768, 12), (1024, 23))
_SAME_SEED = "draw a prompt with the concept at one seed with and without it: the two pictures differ"
_PLACES: Mapping[tuple[Target, Kind], tuple[str, str]] = {
    ("comfyui", "text encoder"): (
        "models/text_encoders; choose it in the node Load CLIP with type stable_diffusion, and connect that node with "
        "both CLIP Text Encode nodes instead of Load Checkpoint",
        f"a line 'clip missing' in the log names text_projection, logit_scale or a 24th layer at most; {_SAME_SEED}",
    ),
    ("comfyui", "checkpoint"): ("models/checkpoints; choose it in the node Load Checkpoint", _SAME_SEED),
    ("comfyui", "lora"): (
        "models/loras; choose it in the node Load LoRA, with both strengths at 1 and with both outputs connected",
        f"no line 'lora key not loaded' in the log; {_SAME_SEED}",
    ),
    ("a1111", "checkpoint"): (
        "models/Stable-diffusion; choose it in the list of checkpoints",
        f"the line below each picture names this file as Model; {_SAME_SEED}",
    ),
    ("a1111", "lora"): (
        "models/Lora; write <lora:NAME:1> into every prompt, with the file's name without suffix as NAME",
        f"the line below each picture lists its name under Lora hashes; {_SAME_SEED}",
    ),
    ("sdcpp", "checkpoint"): ("any folder; pass it as the model, option -m", f"the log names this file; {_SAME_SEED}"),
    ("sdcpp", "lora"): (
        "the folder of LoRAs that you name on its command line; write <lora:NAME:1> into every prompt",
        f"the log says how many of its tensors were applied: all; {_SAME_SEED}",
    ),
    ("invokeai", "pipeline"): (
        "any folder that stays; add its path in the Model Manager under Scan Folder or Local Path",
        f"the Model Manager lists it as a main model in format diffusers; {_SAME_SEED}",
    ),
    ("invokeai", "lora"): ("add its path in the Model Manager; choose it under Concepts, with weight 1", _SAME_SEED),
    ("diffusers", "text encoder"): (
        "load it with CLIPTextModel of transformers, and pass it to the pipeline as its text encoder",
        f"the text encoder's configuration has a field for robust encoders; {_SAME_SEED}",
    ),
    ("diffusers", "pipeline"): ("load the folder with StableDiffusionPipeline", _SAME_SEED),
    ("diffusers", "lora"): ("load the file as LoRA weights of the pipeline", _SAME_SEED),
    ("diffusers", "unet"): (
        "load the tensors into the state dict of the base's UNet; the names are those of ESD's published files",
        _SAME_SEED,
    ),
    ("openclip", "text encoder"): (
        "load it into the text tower of an OpenCLIP model of the same size; its image tower and its text projection "
        "stay",
        "the embedding of a text with the concept changes",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export.

    Args:
        path: File or folder that was written.
        app: Name of the application.
        kind: Kind of file or folder.
        place: Place in which the application looks for it, in words.
        seen: Signs that it is on, in words.
        lost: Properties that the export loses, in words.
        notes: Further facts, in words: differences of the base, and work that is left to the user.
    """

    path: Path
    app: str
    kind: Kind
    place: str
    seen: str
    lost: tuple[str, ...]
    notes: tuple[str, ...]


def described(
    artifact: Artifact, path: Path, to: Target, kind: Kind, *, dtype: torch.dtype | None, notes: tuple[str, ...] = ()
) -> Exported:
    """Return a finished export with what is to be said about it.

    Args:
        artifact: Artifact that was exported.
        path: File or folder that was written.
        to: Application.
        kind: Kind of file or folder.
        dtype: Dtype of all weights; None if each kept its own.
        notes: Differences from the base that the artifact was made for, and work that is left to the user.
    """
    place, seen = _PLACES[to, kind]
    lost, more = _lost(artifact, APPS[to], kind), list(notes)
    if artifact.manifest.component == PROJECTED:
        place = place.replace("CLIPTextModel", "CLIPTextModelWithProjection").replace("its text encoder", PROJECTED)
        more.append("this is one of two text encoders of SDXL: the concept stays reachable through the other one")
    own = {tensor.dtype for tensor in artifact.tensors.values()}
    if dtype is not None and own != {dtype}:
        lost.append(f"the precision of the artifact: its values are rounded to {dtype_name(dtype)}")
    if artifact.manifest.form == "weights" and to in ("comfyui", "a1111", "sdcpp", "invokeai"):
        width, layers = artifact.config["hidden_size"], artifact.config["num_hidden_layers"]
        if (width, layers) not in _KNOWN:
            more.append(
                f"{APPS[to]} builds text encoders of SD 1 and 2 only, this one has width {width} and {layers} layers: "
                "the file shows the layout, and the application will not load it"
            )
        elif layers == 23 and kind == "text encoder":
            lost.append("the 24th layer, which SD 2 does not compute; ComfyUI names it as missing in its log")
    return Exported(path=path, app=APPS[to], kind=kind, place=place, seen=seen, lost=tuple(lost), notes=tuple(more))


def _lost(artifact: Artifact, app: str, kind: Kind) -> list[str]:
    form = artifact.manifest.form
    lost = [f"the checks before attaching and the hash: {app} verifies neither the file nor that it fits"]
    if kind in ("checkpoint", "pipeline"):
        lost.append("detaching: keep the base to draw without the erasure")
    if form == "adapter":
        how = "at the strength set in the application" if kind == "lora" else "at full strength"
        lost.append(f"the gates of the adapter: it acts {how} on every prompt, also on those without the concept")
    if form == "projection":
        lost.append("the projection as a part of its own: it is multiplied into the key and value matrices of the UNet")
    lost.append("the warnings of status: a LoRA or a textual inversion that brings the concept back goes unnoticed")
    return lost
