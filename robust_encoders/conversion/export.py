"""Export of an artifact to a file or folder that another application loads."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.fingerprint import dtype_name
from robust_encoders.artifact.forms import CONFIG_NAME, PROJECTED, WEIGHTS_NAME, serialised
from robust_encoders.artifact.provenance import metadata, provenance
from robust_encoders.artifact.reader import Artifact
from robust_encoders.artifact.writer import config_bytes
from robust_encoders.conversion.export_changes import changes_of
from robust_encoders.conversion.export_checkpoint import Checkpoint
from robust_encoders.conversion.export_pipeline import PipelineFolder
from robust_encoders.conversion.export_places import placed, require_place
from robust_encoders.conversion.export_stream import rewrite, size_after
from robust_encoders.conversion.export_words import APPS, BASES, Exported, Kind, Target, described
from robust_encoders.conversion.formats import OPEN_CLIP, TRANSFORMERS, write
from robust_encoders.conversion.precision import cast
from robust_encoders.errors import ManifestError, NotReadyError
from robust_encoders.utils.dtypes import dtype_or_none
from robust_encoders.utils.home import expanded, expanded_or_none

logger = logging.getLogger(__name__)
_ERASER = "its modules after the cross-attentions are no part of any application's UNet, and they are not linear"
_REMEDIES: Mapping[Kind, str] = {
    "checkpoint": "pass your own checkpoint, a single .safetensors file, by --into CHECKPOINT",
    "pipeline": "pass the folder of a diffusers pipeline, with a model_index.json, by --into CHECKPOINT",
}


def export(
    artifact: Artifact,
    to: Target,
    out: str | Path,
    *,
    name: str,
    into: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    force: bool = False,
) -> Exported:
    """Write an artifact in the layout of another application.

    A base is read tensor by tensor, so that it is never in memory as a whole; its text encoder is. The result is moved
    into place when it is complete.

    Args:
        artifact: Whole text encoder, projection, adapter or delta. An adapter becomes a LoRA without ``into``, and is
            fused with a constant gate of 1 with it.
        to: Application.
        out: Folder for the result; it is created if it does not exist.
        name: Name of the file or folder in ``out``, without suffix.
        into: Base that the artifact is merged into: a single-file checkpoint for ComfyUI, A1111 and
            stable-diffusion.cpp, the folder of a pipeline for InvokeAI and diffusers. None for a file without a base.
        dtype: Dtype of all weights in the result, of torch or by its name; None to keep that of the base, or else of
            the artifact.
        force: True to replace an earlier export.

    Returns:
        What was written, where the application wants it, and what the export loses.

    Raises:
        ManifestError: If the artifact has a form that the application cannot have.
        NotReadyError: If a base is missing or not wanted, or the place cannot be written.
        FileExistsError: If there is something at the place already.
        IntegrityError: If the base cannot be read or is of another family.
        ValueError: If ``dtype`` is no precision.
    """
    out, into, dtype = expanded(out), expanded_or_none(into), dtype_or_none(dtype)
    _require_form(artifact, to, into)
    if into is not None:
        return _merged(artifact, to, out / name, into, dtype, force=force)
    kind = _kind_alone(artifact, to)
    alone = (to, kind) == ("diffusers", "text encoder")
    target = out / artifact.manifest.component if alone else out / f"{name}.safetensors"
    require_place(target, _size(artifact, dtype), force=force)
    tensors = _cast(artifact, dtype)
    with placed(target) as place:
        _write_alone(artifact._replace(tensors=tensors), place, to, kind)
    logger.info("wrote %s", target)
    return described(artifact, target, to, kind, dtype=dtype)


def name_of(name: str) -> str:
    """Return the name of an export for the name, repository or folder of an artifact.

    Args:
        name: Name as in :meth:`robust_encoders.RobustEncoder.from_pretrained`.
    """
    path = expanded(name)
    short = path.resolve().name if path.is_dir() else name
    return re.sub(r"[^\w.-]+", "-", short).strip("-.") or "encoder"


def _require_form(artifact: Artifact, to: Target, into: Path | None) -> None:
    form = artifact.manifest.form
    if artifact.manifest.component == PROJECTED and (to != "diffusers" or into is not None):
        where = f"{APPS[to]}, whose layouts here have one" if into is None else f"{into}, a base with one"
        raise ManifestError(
            f"expected the only text encoder of a pipeline for {where}, found the second one of SDXL; attach it with "
            "this package, or export it with --to diffusers and no base"
        )
    if form == "eraser":
        raise ManifestError(
            f"expected a form that {APPS[to]} can load, found an eraser: {_ERASER}; attach it with this package, or "
            "export another form"
        )
    if to == "openclip" and form != "weights":
        raise ManifestError(
            f"expected a whole text encoder for OpenCLIP, which has no UNet, found form {form!r}; export it to another "
            "application"
        )


def _kind_alone(artifact: Artifact, to: Target) -> Kind:
    """Return what an artifact becomes without a base.

    Raises:
        NotReadyError: If the application needs a base.
    """
    form = artifact.manifest.form
    alone: Mapping[tuple[str, Target], Kind] = {
        ("weights", "comfyui"): "text encoder",
        ("weights", "diffusers"): "text encoder",
        ("weights", "openclip"): "text encoder",
        ("delta", "diffusers"): "unet",
    }
    if form == "adapter":
        return "lora"
    if (form, to) not in alone:
        why = "has no place for a text encoder alone" if form == "weights" else f"has no place for a {form} alone"
        raise NotReadyError(f"expected a base for {APPS[to]}, which {why}, found none; {_REMEDIES[BASES[to]]}")
    return alone[form, to]


def _cast(artifact: Artifact, dtype: torch.dtype | None) -> dict[str, Tensor]:
    if dtype is None:
        return artifact.tensors
    place = Path(artifact.manifest.concept.name)
    return {name: cast(name, tensor, dtype, place) for name, tensor in artifact.tensors.items()}


def _size(artifact: Artifact, dtype: torch.dtype | None) -> int:
    return sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in artifact.tensors.values())


def _write_alone(artifact: Artifact, place: Path, to: Target, kind: Kind) -> None:
    facts = _metadata(artifact, f"for {APPS[to]}")
    if kind in ("lora", "unet"):
        place.write_bytes(serialised(artifact.manifest.form, artifact.tensors, artifact.config, facts))
        return
    layout = OPEN_CLIP if to == "openclip" else TRANSFORMERS
    tensors = {name: tensor.cpu().contiguous() for name, tensor in write(artifact.tensors, layout).items()}
    if to == "diffusers":
        place.mkdir()
        config = {**artifact.config, "robust_encoders": provenance(artifact.manifest, artifact.content_sha256)}
        (place / CONFIG_NAME).write_bytes(config_bytes(tensors, config))
        place = place / WEIGHTS_NAME
    tensor_files.write(place, tensors, facts)


def _metadata(artifact: Artifact, exported: str) -> dict[str, str]:
    return metadata(artifact.manifest, artifact.content_sha256, exported=exported)


def _merged(
    artifact: Artifact, to: Target, target: Path, into: Path, dtype: torch.dtype | None, *, force: bool
) -> Exported:
    kind = BASES.get(to)
    if kind is None:
        raise NotReadyError(f"expected no base for {APPS[to]}, found {into}; leave --into out")
    if into.is_dir() != (kind == "pipeline"):
        found = "a folder" if into.is_dir() else "a file" if into.exists() else "nothing"
        raise NotReadyError(f"expected a base that {APPS[to]} reads in {into}, found {found}; {_REMEDIES[kind]}")
    cast_to = f", in {dtype_name(dtype)}" if dtype is not None else ""
    facts = _metadata(artifact, f"for {APPS[to]}, merged into {into.name}{cast_to}")
    merge = _into_folder if kind == "pipeline" else _into_file
    place, notes = merge(artifact, target, into, facts, dtype=dtype, force=force)
    logger.info("wrote %s", place)
    return described(artifact, place, to, kind, dtype=dtype, notes=notes)


def _into_file(
    artifact: Artifact, target: Path, into: Path, facts: Mapping[str, str], *, dtype: Any, force: bool
) -> tuple[Path, tuple[str, ...]]:
    place = target.with_name(f"{target.name}.safetensors")
    checkpoint = Checkpoint.opened(into, artifact.config.get("num_hidden_layers"))
    changes = changes_of(artifact, checkpoint)
    edits = checkpoint.edits(changes, facts, dtype)
    require_place(place, size_after(checkpoint.file, edits), force=force, source=into)
    with placed(place) as aside:
        rewrite(checkpoint.file, aside, edits)
    return place, (*changes.notes, *_beside(into, place))


def _beside(into: Path, place: Path) -> tuple[str, ...]:
    # A1111 reads the configuration of an SD 2 checkpoint from a file of the checkpoint's own name.
    own = into.with_suffix(".yaml")
    return (f"the configuration {own}: copy it to {place.with_suffix('.yaml')}",) if own.is_file() else ()


def _into_folder(
    artifact: Artifact, target: Path, into: Path, facts: Mapping[str, str], *, dtype: Any, force: bool
) -> tuple[Path, tuple[str, ...]]:
    folder = PipelineFolder.opened(into)
    changes = changes_of(artifact, folder)
    require_place(target, folder.size_after(changes, dtype), force=force, source=into)
    with placed(target) as aside:
        folder.copy(aside, changes, facts, dtype, provenance(artifact.manifest, artifact.content_sha256))
    return target, changes.notes
