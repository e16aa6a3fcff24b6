"""Reading and writing artifacts: verified on the way in, all or nothing on the way out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import ConversionNeededError, IntegrityError, ManifestError
from .fingerprint import content_sha256, dtype_name
from .hub import HubOptions, fetch_artifact
from .layouts import architecture, nested
from .manifest import MANIFEST_NAME, FileRecord, Manifest
from .resolve import resolve

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
Loaded = tuple[Manifest, dict[str, Tensor], dict[str, Any]]


def load(name_or_path: str | Path, *, subfolder: str, variant: str | None, options: HubOptions) -> Loaded:
    """Return manifest, tensors and configuration of an artifact, every byte verified.

    Args:
        name_or_path: A name or a folder, as in :func:`robust_encoders.resolve.resolve`.
        subfolder: Of the folder or repository.
        variant: Load ``model.<variant>.safetensors``.
        options: How to fetch from the Hub.

    Raises:
        RobustEncodersError: As :meth:`robust_encoders.RobustEncoder.from_pretrained` says.
    """
    place = resolve(name_or_path, subfolder=subfolder, revision=options.revision)
    weights = WEIGHTS_NAME if variant is None else f"model.{variant}.safetensors"
    folder = place.folder
    if folder is None:
        names = (MANIFEST_NAME, CONFIG_NAME, weights)
        options = replace(options, revision=place.revision)
        folder = fetch_artifact(place.repo, names, subfolder=place.subfolder, options=options)
    _require_artifact(folder)
    manifest = Manifest.read(folder)
    config = _read_config(_verified(folder, CONFIG_NAME, manifest))
    tensors = _read_tensors(_verified(folder, weights, manifest), manifest.files[weights], folder / weights)
    return manifest, tensors, config


def _require_artifact(folder: Path) -> None:
    if (folder / MANIFEST_NAME).is_file():
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise ConversionNeededError(
            f"expected {MANIFEST_NAME} and safetensors in {folder}, found pickles ({', '.join(pickles)}), which can "
            "run code when loaded and which this version does not convert; ask their publisher for safetensors"
        )
    found = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
    raise ManifestError(
        f"expected {MANIFEST_NAME} in {folder}, found {found}; give the folder that encoder.save_pretrained wrote"
    )


def _verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    record = manifest.files.get(name)
    if record is None:
        raise ManifestError(
            f"expected {name} among the manifest's files, found {', '.join(sorted(manifest.files)) or 'none'}; "
            "choose another variant, or save the artifact again"
        )
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"expected {folder / name}, cannot read it: {error}; fetch the artifact again") from error
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) != (record.size, record.sha256):
        raise IntegrityError(
            f"expected {folder / name} with {record.size} bytes and sha256 {record.sha256}, found {len(data)} bytes "
            f"and {found}: the file was changed or cut off; fetch the artifact again"
        )
    return data


def _read_config(data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"expected JSON in {CONFIG_NAME}, found something else: {error}") from error
    return architecture(config if isinstance(config, dict) else {})


def _read_tensors(data: bytes, record: FileRecord, path: Path) -> dict[str, Tensor]:
    try:
        # From the very bytes that were hashed: the file may change under us, these do not.
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {path}, found something else: {error}") from error
    if record.content_sha256 != (found := content_sha256(tensors)):
        raise IntegrityError(
            f"expected tensors with content hash {record.content_sha256 or '(none recorded)'} in {path}, found {found}"
            "; fetch the artifact again"
        )
    return nested(tensors)


def save(
    directory: str | Path, manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Manifest:
    """Write an artifact aside and move it into place; return its manifest with the hashes of the files.

    Args:
        directory: The folder, made if need be.
        manifest: Its ``files`` are replaced.
        tensors: ``text_model.*`` names to tensors.
        config: Of the text encoder, with its provenance.

    Raises:
        FileExistsError: If the folder holds something, but no artifact.
        ManifestError: If the manifest holds a value that JSON cannot.
    """
    target = Path(directory).expanduser().absolute()
    _require_free(target)
    contents = {CONFIG_NAME: _config_bytes(tensors, config), WEIGHTS_NAME: _weights_bytes(tensors)}
    hashes = {WEIGHTS_NAME: content_sha256(tensors)}
    files = {
        name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data), content_sha256=hashes.get(name, ""))
        for name, data in contents.items()
    }
    finished = replace(manifest, files=files)
    contents[MANIFEST_NAME] = finished.to_json().encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        cleanup.callback(shutil.rmtree, aside, ignore_errors=True)
        _fill(aside / "new", target, contents)
        _move_into_place(aside, target)
    return finished


def provenance(manifest: Manifest, content: str) -> dict[str, Any]:
    """Return what an attached or saved text encoder says about itself, as ``config.robust_encoders``.

    Args:
        manifest: Of the artifact.
        content: Hash of its tensors' contents.
    """
    return {
        "concept": manifest.concept.name,
        "kind": manifest.concept.kind,
        "method": manifest.method["name"],
        "base": manifest.base.family,
        "license": manifest.license,
        "content_sha256": content,
    }


def _require_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"expected a folder or nothing at {target}, found a file; choose another place")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).is_file():
        raise FileExistsError(
            f"expected an empty folder or an artifact at {target}, found other files; choose another folder"
        )


def _config_bytes(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bytes:
    body = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "dtype": dtype_name(next(iter(tensors.values())).dtype),
        **architecture(config),
        "robust_encoders": dict(config["robust_encoders"]),
    }
    return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode()


def _weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # A second metadata key would make the bytes differ from run to run.
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, metadata={"format": "pt"})


def _fill(folder: Path, target: Path, contents: Mapping[str, bytes]) -> None:
    if target.is_dir():
        # A model card or a git folder beside the artifact is not ours to lose.
        shutil.copytree(target, folder, symlinks=True)
        for stale in folder.glob("model.*safetensors"):
            stale.unlink()
    else:
        folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def _move_into_place(aside: Path, target: Path) -> None:
    with ExitStack() as undo:
        if target.is_dir():
            os.replace(target, aside / "old")
            undo.callback(os.replace, aside / "old", target)
        os.replace(aside / "new", target)
        undo.pop_all()
