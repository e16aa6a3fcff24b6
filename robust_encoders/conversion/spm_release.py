"""Conversion of an adapter file in the format of SPM's own code to an artifact of this package."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders.artifact import adapter_file, tensor_files
from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.forms import adapter_config
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.concepts import Concept
from robust_encoders.conversion.convert import NOT_STATED, Origin
from robust_encoders.conversion.text_config import family_of
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.adapters import UNET_PREFIX, Adapter
from robust_encoders.utils.home import expanded
from robust_encoders.utils.versions import version


def is_adapter_file(path: Path) -> bool:
    """Return true if a file holds one-dimensional adapters; only the tensor names in its header are read."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        return any(key.endswith(".lora_down.weight") for key in tensor_files.names(path))
    except (IntegrityError, OSError):
        return False  # the reader of text encoders says what is wrong


def adapter_from_release(source: str | Path, pipe: Any, *, origin: Origin | None = None) -> Artifact:
    """Return the artifact of an adapter file in memory; its fit to the pipeline is not checked here.

    Args:
        source: Path of a ``.safetensors`` file in the layout of SPM's release.
        pipe: Pipeline that the adapter was trained on, without anything attached. Its text encoder computes the gates,
            and the file does not name it.
        origin: Facts about the adapter's origin; the concept is by default the file's first prompt.

    Raises:
        IntegrityError: If the file cannot be read or holds something else.
    """
    path, origin = expanded(source), origin or Origin()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"expected an adapter file at {path}, cannot read it: {error}; pass another file"
        ) from error
    adapter = adapter_file.read(data)
    manifest = _manifest(adapter, pipe, origin, _source(path, data, origin))
    return Artifact(manifest, dict(adapter.tensors), adapter_config(adapter), content_sha256(adapter.tensors))


def _source(path: Path, data: bytes, origin: Origin) -> dict[str, str]:
    return {
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "layout": "spm",
        "publisher": origin.publisher,
        "revision": origin.revision,
    }


def _manifest(adapter: Adapter, pipe: Any, origin: Origin, source: dict[str, str]) -> Manifest:
    unnamed = origin.concept.name == NOT_STATED
    concept = Concept(name=adapter.prompts[0], kind=origin.concept.kind) if unnamed else origin.concept
    prefixes = any(key.startswith(UNET_PREFIX) for key in adapter.tensors)
    family = origin.family or family_of(pipe.text_encoder.config.to_dict())
    return Manifest(
        concept=replace(concept, prompts=concept.prompts or tuple(dict.fromkeys(adapter.prompts))),
        form="adapter",
        component="unet" if prefixes else "text_encoder",
        method={"name": "spm" if origin.method == NOT_STATED else origin.method},
        base=Base.from_pipeline(pipe, family=family, ids=origin.base_ids, with_unet=True),
        recipe={"source": source},
        versions={name: version(name) for name in ("torch", "transformers", "diffusers", "safetensors")},
        license=origin.license,
    )
