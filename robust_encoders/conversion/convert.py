"""From weights that others published to our artifact; the only place where a pickle is read.

``torch.load(weights_only=True)`` builds tensors and plain containers and refuses everything else, so a pickle that
would run code is refused before it does.
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
    """What is known about weights that somebody else made.

    Args:
        concept: Concept that they have unlearned.
        method: Method by which they unlearned it.
        family: Family of the base; empty to go by the architecture.
        base_ids: Hub ids of the base.
        license: Licence of the weights.
        publisher: Publisher, a repository for example.
        revision: The commit they were taken from.
    """

    concept: Concept = field(default_factory=lambda: Concept(name=NOT_STATED, kind="content"))
    method: str = NOT_STATED
    family: str = ""
    base_ids: tuple[str, ...] = ()
    license: str = ""
    publisher: str = NOT_STATED
    revision: str = ""


def convert(
    source: str | Path, out: str | Path, *, origin: Origin | None = None, config: str | Path | None = None
) -> Manifest:
    """Write the text encoder in a file of another format as our artifact.

    Args:
        source: A ``.safetensors``, ``.bin``, ``.pt``, ``.pth`` or ``.ckpt`` file, or a folder with exactly one.
        out: Folder of the artifact.
        origin: Facts about the weights' origin; none of them can be read off the file.
        config: Their ``config.json``; by default the one beside them.

    Returns:
        The manifest; its ``recipe`` says what the artifact was converted from. The base's fingerprints stay unknown:
        the file does not hold them.

    Raises:
        IntegrityError: If the file is no text encoder, holds more than tensors or a value that is not finite, or if its
            configuration is neither given nor unambiguous.
        FileExistsError: If ``out`` holds something else.
    """
    path = weights_in(Path(source).expanduser())
    record, tensors = _read_file(path)
    found = read(tensors)
    settings, settings_from = configuration(path, None if config is None else Path(config), found)
    kept, shorter = without_last_layer(found, settings)
    require_fit(kept, settings)
    manifest = _manifest(origin or Origin(), settings, _recipe(path, record, found, settings_from, shorter))
    logger.info("converting %s (%s)", path, found.layout.name)
    return save(out, manifest, kept, {**settings, "robust_encoders": provenance(manifest, content_sha256(kept))})


def weights_in(source: Path) -> Path:
    """Return the file of weights that ``source`` is, or the only one in the folder that it is.

    Args:
        source: A file or a folder.

    Raises:
        IntegrityError: If there is none, or more than one.
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
    """Return size and hash of a file.

    Args:
        path: Path of the file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=digest, size=file.tell())


def _read_file(path: Path) -> tuple[FileRecord, dict[str, Tensor]]:
    record = file_record(path)
    data = _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if file_record(path) != record:
        raise IntegrityError(f"expected {path} to stay as it is while it is read, found it changed; convert it again")
    return record, _plain(data, path)


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {path}, found something else: {str(error)[:300]}") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a hostile file can make the reader raise. Its own words would advise weights_only=False.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"one that asks for {named[1]}" if named else f"something else ({type(error).__name__})"
        raise IntegrityError(
            f"expected a pickle of nothing but tensors in {path}, found {what}: refused, and nothing in it was run; "
            "ask its publisher for safetensors"
        ) from error


def _plain(data: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(data, Mapping):
        raise IntegrityError(
            f"expected names and tensors in {path}, found a {type(data).__name__}; give a file that holds a state dict"
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
        return "a sparse, quantised or empty tensor"
    # One number may stand for a thousand million of them; a file that does so is no checkpoint.
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
