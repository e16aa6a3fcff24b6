"""Conversion of published weights to an artifact of this package; the only module that reads pickles.

``torch.load(weights_only=True)`` builds tensors and plain containers and refuses everything else. A pickle that would
run code is therefore refused before any of it runs.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import FileRecord, Manifest
from robust_encoders.artifact.writer import provenance, save
from robust_encoders.clip.text_model import require_fit
from robust_encoders.concepts import Concept
from robust_encoders.conversion.formats import Reading, read
from robust_encoders.conversion.text_config import configuration, family_of, without_last_layer
from robust_encoders.errors import IntegrityError

logger = logging.getLogger(__name__)
NOT_STATED = "not stated"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Facts about the origin of published weights.

    Args:
        concept: Concept that the weights have unlearned.
        method: Method by which they unlearned it.
        family: Family of the base, for example ``sd1``; empty to derive it from the architecture.
        base_ids: Hub ids of the base.
        license: Licence of the weights.
        publisher: Publisher of the weights, for example a repository.
        revision: Commit of the repository that the weights come from.
    """

    concept: Concept = field(default_factory=lambda: Concept(name=NOT_STATED, kind="content"))
    method: str = NOT_STATED
    family: str = ""
    base_ids: tuple[str, ...] = ()
    license: str = ""
    publisher: str = NOT_STATED
    revision: str = ""


def convert(
    source: str | Path,
    out: str | Path,
    *,
    origin: Origin | None = None,
    config: str | Path | None = None,
    part: str = "",
) -> Manifest:
    """Read the text encoder from a file of another format and write it as an artifact of this package.

    Args:
        source: Path of a ``.safetensors``, ``.bin``, ``.pt``, ``.pth`` or ``.ckpt`` file, or of a folder with exactly
            one such file.
        out: Folder of the artifact.
        origin: Facts about the weights' origin; none of them can be read from the file.
        config: Path of the ``config.json`` of the weights; by default the one beside them.
        part: Name of the entry that holds the text encoder, in a file with one state dict for each component; empty
            for a file that is the text encoder itself.

    Returns:
        Manifest of the artifact; its ``recipe`` names the source of the conversion. It has no fingerprints of the
        base, because the file does not hold them.

    Raises:
        IntegrityError: If the file holds no text encoder, holds other objects than tensors, or holds a value that is
            not finite. Also if the configuration is neither given nor determined by the format.
        FileExistsError: If ``out`` holds files that are no artifact.
    """
    path = weights_in(Path(source).expanduser())
    record, data = read_file(path)
    found = read(plain(entry_of(data, part, path) if part else data, path))
    settings, settings_from = configuration(path, None if config is None else Path(config), found)
    kept, shorter = without_last_layer(found, settings)
    require_fit(kept, settings)
    manifest = _manifest(origin or Origin(), settings, _recipe(path, record, found, settings_from, shorter))
    logger.info("converting %s (%s)", path, found.layout.name)
    return save(out, manifest, kept, {**settings, "robust_encoders": provenance(manifest, content_sha256(kept))})


def weights_in(source: Path) -> Path:
    """Return the file of weights: ``source`` itself, or the only such file in the folder ``source``.

    Args:
        source: Path of a file or a folder.

    Raises:
        IntegrityError: If there is no such file, or more than one.
    """
    if source.is_file() and source.suffix in SUFFIXES:
        return source
    found = sorted(path for path in source.glob("*") if path.suffix in SUFFIXES) if source.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = ", ".join(path.name for path in found) or ("a file of another kind" if source.is_file() else "none")
    raise IntegrityError(
        f"expected a file of weights ({', '.join(SUFFIXES)}) or a folder with exactly one at {source}, found {what}; "
        "name the file itself"
    )


def file_record(path: Path) -> FileRecord:
    """Return the size in bytes and the SHA-256 of a file.

    Args:
        path: Path of the file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=digest, size=file.tell())


def read_file(path: Path) -> tuple[FileRecord, Any]:
    """Return size and hash of a file of weights, and its content, in which nothing was run.

    Args:
        path: Path of the file, see :func:`weights_in`.

    Returns:
        The record of the file, and its content: plain containers and tensors, without a wrapping ``state_dict``.

    Raises:
        IntegrityError: If the file cannot be read, holds other objects, or changes while it is read.
    """
    record = file_record(path)
    data = _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if file_record(path) != record:
        raise IntegrityError(f"expected {path} unchanged while it was read, found it changed; convert it again")
    return record, data


def entry_of(data: Any, part: str, path: Path) -> Any:
    """Return one entry of a file that holds one state dict for each component.

    Args:
        data: Content of the file.
        part: Name of the entry.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If there is no such entry.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get(part), Mapping):
        raise IntegrityError(
            f"expected an entry {part!r} with a state dict in {path}, found none; leave the component out, or pass "
            "another file"
        )
    return data[part]


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {path}, found something else: {str(error)[:300]}") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A hostile file can make the reader raise any error. The reader's own message would advise weights_only=False.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"one that asks for {named[1]}" if named else f"something else ({type(error).__name__})"
        raise IntegrityError(
            f"expected a pickle with tensors only in {path}, found {what}: refused, and nothing in it was run; "
            "ask its publisher for safetensors"
        ) from error


def plain(data: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict as names and plain tensors.

    Args:
        data: Content of a file, or an entry of it.
        path: Path of the file, for the error message.

    Raises:
        IntegrityError: If it holds anything else; the message names the first of them.
    """
    if not isinstance(data, Mapping):
        raise IntegrityError(
            f"expected names and tensors in {path}, found a {type(data).__name__}; pass a file that holds a state dict"
        )
    wrong = [f"{name!r}: {fault}" for name, value in data.items() if (fault := _fault(name, value))]
    if wrong:
        shown = "; ".join(wrong[:8]) + f"; and {len(wrong) - 8} more" * (len(wrong) > 8)
        raise IntegrityError(
            f"expected names and plain tensors in {path}, found {len(wrong)} others: {shown}; save the state dict alone"
        )
    return {name: tensor.detach() for name, tensor in data.items()}


def _fault(name: object, value: object) -> str:
    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return "a sparse or quantised tensor, or one without values"
    # A stride of 0 lets one stored number stand for thousands of millions; no checkpoint is stored like that.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"shape {tuple(value.shape)}, but {value.untyped_storage().nbytes()} bytes"
    return ""


def _recipe(path: Path, record: FileRecord, found: Reading, settings_from: str, shorter: bool) -> dict[str, Any]:
    return {
        "name": "convert",
        "source": {"file": path.name, "size": record.size, "sha256": record.sha256, "layout": found.layout.name},
        "configuration": settings_from,
        "dropped": [*found.dropped, *["the last layer, which SD 2 does not compute"] * shorter],
    }


def _manifest(origin: Origin, settings: Mapping[str, Any], recipe: dict[str, Any]) -> Manifest:
    taken = {"publisher": origin.publisher, "revision": origin.revision or NOT_STATED}
    return Manifest(
        concept=origin.concept,
        method={"name": origin.method},
        base=Base(family=origin.family or family_of(settings), ids=origin.base_ids),
        recipe={**recipe, "source": {**recipe["source"], **taken}},
        versions={name: version(name) for name in ("robust-encoders", "safetensors", "torch")},
        license=origin.license,
    )
