"""Files of weights: which one a path means, and what is in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.manifest import FileRecord
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.conversion.pickles import read_pickle
from robust_encoders.conversion.state_dicts import plain
from robust_encoders.conversion.wrappers import unwrapped_entry, unwrapped_name, unwrapped_names
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.bounded_files import read_small, regular

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
INDEX = re.compile(r".+\.(safetensors|bin)\.index(\.\w+)?\.json")
MOST_SHARDS = 256
# The names under which libraries write weights, in the order in which they prefer them themselves.
_USUAL = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "diffusion_pytorch_model.safetensors",
)  # fmt: skip
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_ELSEWHERE: Mapping[str, str] = {
    ".gguf": "a GGUF file of llama.cpp", ".onnx": "an ONNX model", ".h5": "weights of TensorFlow",
    ".msgpack": "weights of Flax", ".npz": "arrays of NumPy", ".tflite": "a TensorFlow Lite model",
    ".pkl": "a pickle of Python", ".zip": "a zip archive", ".gz": "a gzip archive", ".tar": "a tar archive",
    ".7z": "a 7z archive", ".pt2": "a program of torch.export", ".xml": "an OpenVINO model",
}  # fmt: skip


class Content(NamedTuple):
    """The content of a file of weights.

    Args:
        record: Size and hash of the file; those of the index for weights in several files.
        data: Plain containers and tensors, in which nothing was run.
        entry: Dotted name of the entry that ``data`` is, for example ``model_state_dict``; empty for the whole file.
        shards: Records of the files that an index names, by name.
    """

    record: FileRecord
    data: Any
    entry: str = ""
    shards: Mapping[str, FileRecord] = {}

    @property
    def size(self) -> int:
        """Size of everything that was read, in bytes."""
        return sum(shard.size for shard in self.shards.values()) or self.record.size


def weights_in(source: Path) -> Path:
    """Return the file of weights: ``source`` itself, or the one in the folder ``source``.

    In a folder with several files of weights, the one under the usual name of transformers, open_clip or diffusers is
    chosen. In the folder of a pipeline, the folder ``text_encoder`` is searched.

    Args:
        source: Path of a file or a folder.

    Raises:
        IntegrityError: If there is no such file, or more than one.
    """
    if source.exists() and not source.is_dir():
        _require_regular(source)
    if _is_weights(source) and source.is_file():
        return source
    folder = source / "text_encoder" if (source / "model_index.json").is_file() else source
    found = sorted(path for path in folder.glob("*") if _is_weights(path) and path.is_file())
    if any(map(_is_index, found)):
        found = [path for path in found if not _is_shard(path)]
    usual = [folder / name for name in _USUAL if folder / name in found]
    if len(found) == 1 or usual:
        return (usual or found)[0]
    if source.is_file():
        what = _ELSEWHERE.get(source.suffix.lower(), "a file of another kind")
    else:
        what = ", ".join(path.name for path in found[:8]) or "none"
        what += ", parts of a model whose index (*.index.json) is missing" if any(map(_is_shard, found)) else ""
    raise IntegrityError(
        f"expected a file of weights ({', '.join(SUFFIXES)}) or a folder with exactly one at {source}, found {what}; "
        "name the file itself"
    )


def _is_weights(path: Path) -> bool:
    return path.suffix in SUFFIXES or _is_index(path)


def _is_index(path: Path) -> bool:
    return INDEX.fullmatch(path.name) is not None


def _is_shard(path: Path) -> bool:
    return _SHARD.fullmatch(path.name) is not None


def _require_regular(path: Path) -> None:
    try:
        regular(path)
    except OSError as error:
        raise IntegrityError(f"expected a file of weights at {path}, cannot read it: {error}; pass a file") from error


def file_record(path: Path) -> FileRecord:
    """Return the size in bytes and the SHA-256 of a file.

    Args:
        path: Path of the file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=digest, size=file.tell())


def read_file(path: Path) -> Content:
    """Return the content of a file of weights, in which nothing was run.

    Args:
        path: Path of the file, see :func:`weights_in`.

    Returns:
        Record of the file and its content without the entry and the names of wrappers around a state dict.

    Raises:
        IntegrityError: If the file cannot be read, holds other objects, or changes while it is read.
    """
    _require_regular(path)
    try:
        if _is_index(path):
            return _read_shards(path)
        record = file_record(path)
        data, entry = unwrapped_entry(_read(path), path)
        if file_record(path) != record:
            raise IntegrityError(f"expected {path} unchanged while it was read, found it changed; convert it again")
    except OSError as error:
        raise IntegrityError(f"expected a file of weights at {path}, cannot read it: {error}; pass a file") from error
    return Content(record, data, entry)


def _read(path: Path) -> Any:
    if shard := _SHARD.fullmatch(path.name):
        raise IntegrityError(
            f"expected all weights of a model in {path}, found part {int(shard[1])} of {int(shard[2])}; pass the file "
            "*.index.json beside it, which names all parts"
        )
    return _read_one(path)


def _read_one(path: Path) -> Any:
    return read_pickle(path) if path.suffix in PICKLES else read_owned(path).tensors


def _read_shards(path: Path) -> Content:
    index = read_small(path)
    shards = _shards_of(index, path)
    tensors: dict[str, Tensor] = {}
    records: dict[str, FileRecord] = {}
    for name, expected in shards.items():
        place = path.parent / name
        records[name] = file_record(place)
        found = plain(_read_one(place), place)
        if found.keys() != expected:
            wrong = sorted(found.keys() ^ expected)
            raise IntegrityError(
                f"expected the tensors in {place} that {path.name} names there, found {len(wrong)} others or missing "
                f"({', '.join(wrong)[:200]}); download all parts again"
            )
        tensors |= found
        if file_record(place) != records[name]:
            raise IntegrityError(f"expected {place} unchanged while it was read, found it changed; convert it again")
    record = FileRecord(sha256=hashlib.sha256(index).hexdigest(), size=len(index))
    return Content(record, tensors, shards=records)


def _shards_of(index: bytes, path: Path) -> dict[str, set[str]]:
    """Return the names of the tensors in each file of an index; every file lies beside the index."""
    try:
        found = json.loads(index)["weight_map"]
        wanted: dict[str, set[str]] = {}
        for name, shard in found.items():
            wanted.setdefault(shard, set()).add(unwrapped_name(name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"expected an index with a weight_map in {path}, found none; pass another file") from error
    problems = [fault for name in wanted if (fault := _shard_fault(path.parent, name))]
    if problems or not 0 < len(wanted) <= MOST_SHARDS:
        raise IntegrityError(
            f"expected the names of 1 to {MOST_SHARDS} files of weights beside {path} in it, found {len(wanted)}, "
            f"{len(problems)} of them wrong: {'; '.join(problems[:8])}; download the whole folder again"
        )
    return wanted


def _shard_fault(folder: Path, name: object) -> str:
    if not isinstance(name, str) or Path(name).suffix not in SUFFIXES or set("/\\") & set(name):
        return f"{str(name)[:80]!r} is no name of a file of weights in the same folder"
    return "" if (folder / name).is_file() else f"{name[:80]!r} is missing"


def names_of(path: Path) -> Sequence[str]:
    """Return the names of the tensors in a safetensors file, without the names of wrappers.

    Args:
        path: Path of the file.

    Raises:
        IntegrityError: If it cannot be read.
    """
    try:
        return list(unwrapped_names(dict.fromkeys(tensor_files.names(path)), path))
    except OSError as error:
        raise IntegrityError(f"expected a file of weights at {path}, cannot read it: {error}; pass a file") from error
