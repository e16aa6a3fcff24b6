"""Writing of artifacts, completely or not at all, even if the process is killed while it writes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact import tensor_files
from robust_encoders.artifact.card_certificate import of_configuration
from robust_encoders.artifact.fingerprint import config_sha256, content_sha256, dtype_name
from robust_encoders.artifact.forms import CONFIG_NAME, PICTURE_NAME, is_replaced, serialised, weights_name
from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest, SharedTensor
from robust_encoders.artifact.model_card import CARD_NAME, card
from robust_encoders.artifact.provenance import metadata
from robust_encoders.artifact.target import require_free, require_movable
from robust_encoders.clip.state_dict import PROJECTION, architecture
from robust_encoders.errors import CardError, HomeError, ManifestError
from robust_encoders.utils.atomic_folders import remove_abandoned, scratch
from robust_encoders.utils.home import expanded, home, locked

logger = logging.getLogger(__name__)


def save(
    directory: str | Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    reference: str = "",
    shared: Mapping[str, SharedTensor] | None = None,
) -> Manifest:
    """Write an artifact into a temporary folder and move it into place; return its manifest with the files' hashes.

    Temporary folders that killed processes left at the same place are removed. A certificate of another configuration
    is left out, with a warning.

    Args:
        directory: Target folder; it is created if it does not exist.
        manifest: Manifest of the artifact; its ``files`` are replaced.
        tensors: Mapping of names to tensors; ``text_model.*`` names for a text encoder.
        config: Configuration that belongs to the tensors, with the provenance under ``robust_encoders``.
        reference: Name in the model card's loading example; by default the placeholder ``path/to/this/folder``.
        shared: Tensors that an embedded base holds, by name; they are left out of the file. By default the artifact is
            written whole, even if it was read from a folder without some tensors.

    Raises:
        FileExistsError: If the folder holds files but no artifact. Also if the folder cannot be replaced, because it
            contains the working directory of this process or is a mount point.
        CardError: If the folder has a model card with metadata that cannot be read.
        ManifestError: If the manifest holds a value that JSON cannot represent.
    """
    target = expanded(directory).resolve()
    manifest = replace(manifest, results=of_configuration(manifest.results, config_sha256(config)))

    def rescue(aside: Path) -> bool:
        try:
            return _put_back(aside, target)
        except OSError as error:
            raise OSError(
                f"expected to restore the previous contents of {target}, found {error}: it lies in {aside / 'old'}; "
                "move it back"
            ) from error

    require_movable(target)
    with _alone(target):
        remove_abandoned(target.parent, target.name, rescue)
        require_free(target)
        manifest.to_json()  # raises before anything is written
        with scratch(target.parent, target.name, rescue) as aside:
            finished, contents = _contents(replace(manifest, shared=shared or {}), tensors, config, aside)
            contents |= _picture(target, finished)
            contents[CARD_NAME] = _card_bytes(target, finished, reference or "path/to/this/folder", contents)
            _fill(aside / "new", target, contents)
            _move_into_place(aside, target)
    return finished


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process of this user at a time save to a folder; the lock file lies in the package's home folder."""
    with ExitStack() as stack:
        with suppress(HomeError):  # If the home folder is not writable, save without a lock.
            stack.enter_context(locked(home() / "saving" / hashlib.sha256(os.fsencode(target)).hexdigest()))
        yield


def _contents(
    manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any], aside: Path
) -> tuple[Manifest, dict[str, bytes | Path]]:
    """Return the manifest with the files' hashes, and the files: their bytes, or a path in the folder ``aside``."""
    name, content = weights_name(manifest.form), content_sha256(tensors)
    facts = metadata(manifest, content)
    contents: dict[str, bytes | Path]
    if manifest.form == "weights":
        stored = {key: tensor for key, tensor in tensors.items() if key not in manifest.shared}
        contents = {CONFIG_NAME: config_bytes(tensors, config), name: _weights_file(stored, facts, aside / name)}
    else:
        contents = {name: serialised(manifest.form, tensors, config, facts)}
    hashes = {name: content}
    finished = replace(manifest, files={name: _record(data, hashes.get(name, "")) for name, data in contents.items()})
    return finished, {**contents, MANIFEST_NAME: finished.to_json().encode()}


def _record(data: bytes | Path, content: str) -> FileRecord:
    if isinstance(data, bytes):
        return FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data), content_sha256=content)
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=digest, size=file.tell(), content_sha256=content)


def config_bytes(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bytes:
    """Return the ``config.json`` of a text encoder.

    Args:
        tensors: Tensors of the text encoder, which state its dtype.
        config: Configuration, with the provenance under ``robust_encoders``.
    """
    body = {
        "architectures": ["CLIPTextModelWithProjection" if PROJECTION in tensors else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "dtype": dtype_name(next(iter(tensors.values())).dtype),
        **architecture(config),
        "robust_encoders": dict(config["robust_encoders"]),
    }
    return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode()


def _card_bytes(target: Path, manifest: Manifest, reference: str, contents: Collection[str]) -> bytes:
    place = target / CARD_NAME
    try:
        existing = place.read_bytes().decode() if place.is_file() else ""
    except UnicodeDecodeError as error:
        raise CardError(f"expected text in UTF-8 in {place}, found {error}; correct or remove it") from error
    picture = PICTURE_NAME if PICTURE_NAME in contents else ""
    return card(manifest, reference=reference, existing=existing, picture=picture).encode()


def _picture(target: Path, manifest: Manifest) -> dict[str, bytes | Path]:
    """Return the picture in a folder if the folder holds this very artifact; the picture of another one goes."""
    place = target / PICTURE_NAME
    try:
        present = Manifest.read(target) if place.is_file() else None
    except ManifestError:
        present = None
    same = present is not None and _contents_of(present) == _contents_of(manifest)
    return {PICTURE_NAME: place.read_bytes()} if same else {}


def _contents_of(manifest: Manifest) -> set[str]:
    return {record.content_sha256 for record in manifest.files.values()}


def _weights_file(tensors: Mapping[str, Tensor], facts: Mapping[str, str], path: Path) -> Path:
    # Written from the tensors themselves: their bytes in memory would be a second and a third copy.
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    tensor_files.write(path, contiguous, facts)
    return path


def _fill(folder: Path, target: Path, contents: Mapping[str, bytes | Path]) -> None:
    if target.is_dir():
        # Other files in the folder, for example a model card or a git folder, are kept.
        def written_anew(where: str, names: list[str]) -> set[str]:
            files = names if Path(where) == target else []
            files = [name for name in files if (target / name).is_symlink() or not (target / name).is_dir()]
            return {name for name in files if is_replaced(name) or name in contents}

        shutil.copytree(target, folder, symlinks=True, ignore=written_anew)
    else:
        folder.mkdir()
    for name, data in contents.items():
        if isinstance(data, Path):
            data.rename(folder / name)
        else:
            (folder / name).write_bytes(data)


def _put_back(aside: Path, target: Path) -> bool:
    """Restore the files that an interrupted save moved out of a folder; return true if some could not be restored."""
    old = aside / "old"
    if not ((aside / "new").is_dir() and old.is_dir()):
        return False  # The save was completed, or it had not moved anything yet.
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        os.replace(old, target)
        return False
    if (target / MANIFEST_NAME).is_file():
        for path in [path for path in old.iterdir() if not os.path.lexists(target / path.name)]:
            if not _written(path.name):
                os.replace(path, target / path.name)
    left = sorted(path.name for path in old.iterdir() if not (_written(path.name) or _same(path, target / path.name)))
    if left:
        logger.warning(
            "expected to restore the files that an interrupted save to %s had moved, found other files there instead "
            "of %s in %s; copy the files that you need from that folder and remove it",
            target, ", ".join(left), old,
        )  # fmt: skip
    return bool(left)


def _written(name: str) -> bool:
    return name == MANIFEST_NAME or is_replaced(name)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _move_into_place(aside: Path, target: Path) -> None:
    try:
        if target.is_dir():
            os.replace(target, aside / "old")
        os.replace(aside / "new", target)
    except OSError as error:
        raise OSError(f"expected to move the artifact to {target}, found {error}; choose another place") from error
