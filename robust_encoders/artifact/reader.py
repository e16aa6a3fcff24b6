"""Reading of artifacts, with verification of every byte except for checks that an earlier load has done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.foreign_files import LINE_ENDS, Foreign, foreign_file, is_pointer
from robust_encoders.artifact.forms import CONFIG_NAME, PROJECTED, parsed, require_tensors
from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from robust_encoders.artifact.owned_file import OwnedFile, read_owned, same_file
from robust_encoders.artifact.provenance import METADATA_KEY, embedded_provenance, require_agreement
from robust_encoders.artifact.verified_files import remember, settle
from robust_encoders.clip.state_dict import architecture, nested
from robust_encoders.clip.text_model import require_fit
from robust_encoders.errors import ConversionNeededError, IntegrityError, ManifestError
from robust_encoders.utils.bounded_files import MOST_JSON, regular


class Artifact(NamedTuple):
    """A verified artifact in memory.

    Args:
        manifest: Manifest of the artifact: its origin and facts.
        tensors: Mapping of names to tensors.
        config: Configuration that belongs to the tensors.
        content_sha256: Hash of the tensors' contents.
    """

    manifest: Manifest
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    content_sha256: str


class Trust(NamedTuple):
    """Checks of an artifact's weights that need not be repeated; decided before the weights are read.

    Args:
        contents: True if finite values and content hash were already verified for the file hash in the manifest. The
            bytes of the file are still hashed.
        unchanged: State of the file when an earlier load verified it completely; None if unknown. Bytes that are read
            from the file in that state are not hashed again.
    """

    contents: bool = False
    unchanged: os.stat_result | None = None


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an artifact.

    Args:
        folder: Folder of the artifact.

    Raises:
        ConversionNeededError: If the folder holds pickles and no manifest.
        ManifestError: If the manifest is missing or malformed.
    """
    _require_artifact(folder)
    return Manifest.read(folder)


def read_artifact(
    folder: Path, manifest: Manifest, weights: str, *, trust: Trust, shared: Mapping[str, Tensor] | None = None
) -> Artifact:
    """Read and verify tensors and configuration of an artifact.

    Args:
        folder: Folder of the artifact.
        manifest: Manifest of the artifact.
        weights: Name of the file of weights.
        trust: Checks of the weights that need not be repeated.
        shared: Verified tensors of an embedded base, for those that the manifest says are stored there.

    Raises:
        ManifestError: If the manifest does not list the files, or shares a tensor that its file holds, too.
        IntegrityError: If a file, a tensor or a value differs from what the manifest or the configuration says, or the
            provenance inside the weights contradicts the manifest.
    """
    whole = manifest.form == "weights"
    if whole:
        artifact = _read_weights(folder, manifest, weights, trust, shared or {})
    else:
        artifact = _read_small(folder, manifest, weights)
    require_agreement(embedded_provenance(folder / weights), folder / weights, manifest)
    return artifact


def _read_weights(
    folder: Path, manifest: Manifest, weights: str, trust: Trust, shared: Mapping[str, Tensor]
) -> Artifact:
    config = _read_config(folder, manifest)
    record, path = _record(manifest, weights), folder / weights
    _require_size(path, record)
    if trust.unchanged is None:
        settle(path)
    file = read_owned(path)
    known = trust.unchanged is not None and file.state is not None and same_file(file.state, trust.unchanged)
    if not known:
        _require_bytes(file, record, path)
    if both := sorted({*shared} & {*file.tensors}):
        raise ManifestError(
            f"expected tensors either in {path} or in the embedded base, found {', '.join(both)} in both; fetch the "
            "artifact again"
        )
    tensors = {**file.tensors, **shared}
    # A pin or a note of an earlier check is about the file, not about tensors that the base gives.
    if shared or not (known or trust.contents) or not record.content_sha256:
        _require_contents(tensors, record, path)
    named = nested(tensors)
    projected = manifest.component == PROJECTED
    require_fit(named, config, finite=known or trust.contents, projected=projected)
    if not known and file.state is not None:
        remember(path, record, file.state)
    return Artifact(manifest, named, config, record.content_sha256)


def _read_small(folder: Path, manifest: Manifest, weights: str) -> Artifact:
    """Read an artifact in a small form; it is always verified completely, because that is cheap for most of them."""
    record, path = _record(manifest, weights), folder / weights
    if manifest.form == "delta":
        # A delta may have gigabytes; bytes and tensors together would need twice as much memory.
        return _read_delta(path, record, manifest)
    tensors, config = parsed(manifest.form, _verified(path, record))
    _require_contents(tensors, record, path)
    return Artifact(manifest, tensors, config, record.content_sha256)


def _read_delta(path: Path, record: FileRecord, manifest: Manifest) -> Artifact:
    _require_size(path, record)
    file = read_owned(path)
    _require_bytes(file, record, path)
    require_tensors(manifest.form, file.tensors, {})
    _require_contents(file.tensors, record, path)
    return Artifact(manifest, file.tensors, {}, record.content_sha256)


def _require_artifact(folder: Path) -> None:
    if (folder / MANIFEST_NAME).is_file():
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise ConversionNeededError(
            f"expected {MANIFEST_NAME} and safetensors in {folder}, found pickles ({', '.join(pickles)}), which can "
            f"run code when loaded; convert them once by `robust-encoders convert {folder} OUT`, then load OUT"
        )
    found = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
    raise ManifestError(
        f"expected {MANIFEST_NAME} in {folder}, found {found}; pass a folder that encoder.save_pretrained wrote"
    )


def _record(manifest: Manifest, name: str) -> FileRecord:
    record = manifest.files.get(name)
    if record is None:
        raise ManifestError(
            f"expected {name} among the manifest's files, found {', '.join(sorted(manifest.files)) or 'none'}; "
            "choose another variant, or save the artifact again"
        )
    return record


def _require_size(path: Path, record: FileRecord) -> None:
    try:
        state = regular(path)
        if state.st_size != record.size and (other := _foreign(path, record, state.st_size)) is not None:
            raise IntegrityError(f"expected {path} with {record.size} bytes, found {other.what}; {other.remedy}")
    except OSError as error:
        raise IntegrityError(f"expected {path}, cannot read it: {error}; fetch the artifact again") from error
    if state.st_size != record.size:
        raise _changed(path, record, f"{state.st_size} bytes")


def _foreign(path: Path, record: FileRecord, size: int) -> Foreign | None:
    """Return what git or a download made of a file whose size is not the recorded one; None if it cannot be told."""
    if record.size < size <= MOST_JSON:
        data = path.read_bytes()
        if data.count(b"\n") == data.count(b"\r\n") == size - record.size:
            return LINE_ENDS
    # A configuration that was edited is a text, too, but no foreign file.
    return foreign_file(path) if path.suffix == ".safetensors" or size == 0 or is_pointer(path) else None


def _changed(path: Path, record: FileRecord, found: str) -> IntegrityError:
    return IntegrityError(
        f"expected {path} with {record.size} bytes and sha256 {record.sha256}, found {found}: "
        "the file was changed or cut off; fetch the artifact again"
    )


def _verified(path: Path, record: FileRecord) -> bytes:
    _require_size(path, record)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"expected {path}, cannot read it: {error}; fetch the artifact again") from error
    if (found := hashlib.sha256(data).hexdigest()) != record.sha256:
        raise _changed(path, record, f"{len(data)} bytes and {found}")
    return data


def _read_config(folder: Path, manifest: Manifest) -> dict[str, Any]:
    path, record = folder / CONFIG_NAME, _record(manifest, CONFIG_NAME)
    if record.size > MOST_JSON:
        raise IntegrityError(
            f"expected a configuration of at most {MOST_JSON} bytes in {path}, the manifest says {record.size}; fetch "
            "the artifact again"
        )
    try:
        config = json.loads(_verified(path, record))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"expected JSON in {CONFIG_NAME}, found something else: {error}") from error
    body = config if isinstance(config, dict) else {}
    require_agreement(body.get(METADATA_KEY), path, manifest)
    return architecture(body)


def _require_bytes(file: OwnedFile, record: FileRecord, path: Path) -> None:
    if (found := file.sha256()) != record.sha256:
        raise _changed(path, record, f"{file.size} bytes and {found}")


def _require_contents(tensors: Mapping[str, Tensor], record: FileRecord, path: Path) -> None:
    if record.content_sha256 != (found := content_sha256(tensors)):
        raise IntegrityError(
            f"expected tensors with content hash {record.content_sha256 or '(none recorded)'} in {path}, found {found}"
            "; fetch the artifact again"
        )
