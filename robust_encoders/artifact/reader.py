"""Reading of artifacts, with verification of every byte except for checks that an earlier load has done."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.forms import CONFIG_NAME, parsed, require_tensors
from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from robust_encoders.artifact.verified_files import remember, same_file
from robust_encoders.clip.state_dict import architecture, nested
from robust_encoders.clip.text_model import require_fit
from robust_encoders.errors import ConversionNeededError, IntegrityError, ManifestError

# Size in bytes from which a file is memory-mapped, which saves time and memory. A smaller file is copied into memory,
# which is cheap; the copy cannot change while it is read.
MAPPED_FROM = 2**24


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
        unchanged: State of the file when an earlier load verified it completely; None if unknown. While the file is in
            that state, its bytes are not hashed again.
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


def read_artifact(folder: Path, manifest: Manifest, weights: str, *, trust: Trust) -> Artifact:
    """Read and verify tensors and configuration of an artifact.

    Args:
        folder: Folder of the artifact.
        manifest: Manifest of the artifact.
        weights: Name of the file of weights.
        trust: Checks of the weights that need not be repeated.

    Raises:
        ManifestError: If the manifest does not list the files.
        IntegrityError: If a file, a tensor or a value differs from what the manifest or the configuration says.
    """
    if manifest.form != "weights":
        return _read_small(folder, manifest, weights)
    config = _read_config(_verified(folder / CONFIG_NAME, _record(manifest, CONFIG_NAME)))
    record, path = _record(manifest, weights), folder / weights
    found, known = _require_size(path, record), trust.unchanged is not None
    looked_at = trust.unchanged or found
    tensors = _read_tensors(path, record, looked_at, known=known)
    if not (known or trust.contents) or not record.content_sha256:
        _require_contents(tensors, record, path)
    named = nested(tensors)
    require_fit(named, config, finite=known or trust.contents)
    if not known:
        remember(path, record, looked_at)
    return Artifact(manifest, named, config, record.content_sha256)


def _read_small(folder: Path, manifest: Manifest, weights: str) -> Artifact:
    """Read an artifact in a small form; it is always verified completely, because that is cheap for most of them."""
    record, path = _record(manifest, weights), folder / weights
    if manifest.form == "delta" and record.size >= MAPPED_FROM:
        # A delta may have gigabytes, of which a file in memory would be a second copy.
        mapped = _read_tensors(path, record, _require_size(path, record), known=False)
        require_tensors(manifest.form, mapped, {})
        _require_contents(mapped, record, path)
        return Artifact(manifest, mapped, {}, record.content_sha256)
    data = _verified(path, record)
    tensors, config = parsed(manifest.form, data)
    _require_once(data[8 : 8 + int.from_bytes(data[:8], "little")], path)
    _require_contents(tensors, record, path)
    return Artifact(manifest, tensors, config, record.content_sha256)


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


def _require_size(path: Path, record: FileRecord) -> os.stat_result:
    try:
        state = path.stat()
    except OSError as error:
        raise IntegrityError(f"expected {path}, cannot read it: {error}; fetch the artifact again") from error
    if state.st_size != record.size:
        raise _changed(path, record, f"{state.st_size} bytes")
    return state


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


def _read_config(data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"expected JSON in {CONFIG_NAME}, found something else: {error}") from error
    return architecture(config if isinstance(config, dict) else {})


def _read_tensors(path: Path, record: FileRecord, looked_at: os.stat_result, *, known: bool) -> dict[str, Tensor]:
    try:
        if record.size < MAPPED_FROM:
            # The tensors are made from the bytes that were hashed, because the file may change in the meantime.
            data = _verified(path, record)
            tensors = safetensors.torch.load(data)
            _require_once(data[8 : 8 + int.from_bytes(data[:8], "little")], path)
            return tensors
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {path}, found something else: {str(error)[:300]}") from error
    if not known:
        _require_bytes(path, record)
    # Checked even for a remembered file, because the mapped file may not be the one whose state was looked up.
    if not same_file(_require_size(path, record), looked_at):
        raise _changed(path, record, "that it was replaced while it was read")
    return tensors


def _require_bytes(path: Path, record: FileRecord) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        _require_once(file.read(int.from_bytes(file.read(8), "little")), path)
    if found != record.sha256:
        raise _changed(path, record, f"{record.size} bytes and {found}")


def _require_once(header: bytes, path: Path) -> None:
    """Refuse a header with a duplicate name, because readers disagree on which of the two entries is valid."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
            raise IntegrityError(
                f"expected every name once in the header of {path}, found {', '.join(twice)[:200]} twice; "
                "fetch the artifact again"
            )
        return dict(pairs)

    json.loads(header, object_pairs_hook=once)


def _require_contents(tensors: Mapping[str, Tensor], record: FileRecord, path: Path) -> None:
    if record.content_sha256 != (found := content_sha256(tensors)):
        raise IntegrityError(
            f"expected tensors with content hash {record.content_sha256 or '(none recorded)'} in {path}, found {found}"
            "; fetch the artifact again"
        )
