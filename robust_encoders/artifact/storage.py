"""Reading and writing artifacts: verified on the way in, all or nothing on the way out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256, dtype_name
from robust_encoders.artifact.forms import CONFIG_NAME, is_replaced, parsed, serialised, weights_name
from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from robust_encoders.artifact.model_card import CARD_NAME, card
from robust_encoders.artifact.verified_files import remember, remembered, same_file
from robust_encoders.clip.state_dict import architecture, nested
from robust_encoders.clip.text_model import require_fit
from robust_encoders.errors import CardError, ConversionNeededError, IntegrityError, ManifestError
from robust_encoders.utils.atomic_folders import remove_abandoned, scratch
from robust_encoders.utils.home import home, locked

logger = logging.getLogger(__name__)
# Below this a copy in memory costs nothing and cannot change under us; above, mapping the file saves time and memory.
MAPPED_FROM = 2**24


class Artifact(NamedTuple):
    """An artifact as it lies in a folder, verified."""

    manifest: Manifest
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    content_sha256: str


class Trust(NamedTuple):
    """What need not be verified again.

    Args:
        proven: Finiteness and contents were proven for the bytes that the manifest names; those are hashed still.
        anew: Verify everything, also what was verified before and is remembered.
    """

    proven: bool = False
    anew: bool = False


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an artifact.

    Args:
        folder: Of the artifact.

    Raises:
        ConversionNeededError: If there are only pickles.
        ManifestError: If there is none, or a malformed one.
    """
    _require_artifact(folder)
    return Manifest.read(folder)


def read_artifact(folder: Path, manifest: Manifest, weights: str, *, trust: Trust) -> Artifact:
    """Return tensors and configuration of an artifact, every byte verified.

    Args:
        folder: Of the artifact.
        manifest: Of the artifact.
        weights: Name of the file of weights.
        trust: What was proven before.

    Raises:
        ManifestError: If the manifest does not know the files.
        IntegrityError: If a file, a tensor or a value is not as the manifest and the configuration say.
    """
    if manifest.form != "weights":
        return _read_small(folder, manifest, weights)
    config = _read_config(_verified(folder / CONFIG_NAME, _record(manifest, CONFIG_NAME)))
    record, path = _record(manifest, weights), folder / weights
    looked_at = _require_size(path, record)
    known = not trust.anew and remembered(path, record)
    tensors = _read_tensors(path, record, looked_at, known=known)
    if not (known or trust.proven) or not record.content_sha256:
        _require_contents(tensors, record, path)
    named = nested(tensors)
    require_fit(named, config, finite=known or trust.proven)
    if not known:
        remember(path, record, looked_at)
    return Artifact(manifest, named, config, record.content_sha256)


def _read_small(folder: Path, manifest: Manifest, weights: str) -> Artifact:
    """Return an adapter or a projection, which costs too little to verify for anything to be remembered of it."""
    record, path = _record(manifest, weights), folder / weights
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
            f"run code when loaded; convert them once: `robust-encoders convert {folder} OUT`, then load OUT"
        )
    found = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
    raise ManifestError(
        f"expected {MANIFEST_NAME} in {folder}, found {found}; give the folder that encoder.save_pretrained wrote"
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
            # From the very bytes that were hashed: the file may change under us, these do not.
            data = _verified(path, record)
            tensors = safetensors.torch.load(data)
            _require_once(data[8 : 8 + int.from_bytes(data[:8], "little")], path)
            return tensors
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {path}, found something else: {str(error)[:300]}") from error
    if not known:
        _require_bytes(path, record)
    # Also where it is known: what was mapped may be another file than the one that was looked up.
    if not same_file(_require_size(path, record), looked_at):
        raise _changed(path, record, "it replaced while it was read")
    return tensors


def _require_bytes(path: Path, record: FileRecord) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        _require_once(file.read(int.from_bytes(file.read(8), "little")), path)
    if found != record.sha256:
        raise _changed(path, record, f"{record.size} bytes and {found}")


def _require_once(header: bytes, path: Path) -> None:
    """Refuse a header that names something twice: readers disagree on which of the two counts."""

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


def save(
    directory: str | Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    reference: str = "",
) -> Manifest:
    """Write an artifact aside and move it into place; return its manifest with the hashes of the files.

    What a process that was killed while it saved there left behind is removed.

    Args:
        directory: The folder, made if need be.
        manifest: Its ``files`` are replaced.
        tensors: ``text_model.*`` names to tensors.
        config: Of the text encoder, with its provenance.
        reference: What the model card says to load it by; by default some folder.

    Raises:
        FileExistsError: If the folder holds something, but no artifact, or cannot be replaced: this process works in
            it, or it is a mount point.
        CardError: If a model card is there whose metadata cannot be read.
        ManifestError: If the manifest holds a value that JSON cannot.
    """
    target = Path(directory).expanduser().resolve()

    def rescue(aside: Path) -> bool:
        try:
            return _put_back(aside, target)
        except OSError as error:
            raise OSError(
                f"expected to put back what was at {target}, found {error}: it lies in {aside / 'old'}; move it back"
            ) from error

    _require_movable(target)
    with _alone(target):
        remove_abandoned(target.parent, target.name, rescue)
        _require_free(target)
        finished, contents = _contents(manifest, tensors, config)
        contents[CARD_NAME] = _card_bytes(target, finished, reference or "path/to/this/folder")
        with scratch(target.parent, target.name, rescue) as aside:
            _fill(aside / "new", target, contents)
            _move_into_place(aside, target)
    return finished


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process of this user at a time save to a folder; the lock lies in the package's own home."""
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # A home that cannot be written is no reason not to save.
            stack.enter_context(locked(home() / "saving" / hashlib.sha256(os.fsencode(target)).hexdigest()))
        yield


def _contents(
    manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[Manifest, dict[str, bytes]]:
    name = weights_name(manifest.form)
    if manifest.form == "weights":
        contents = {CONFIG_NAME: _config_bytes(tensors, config), name: _weights_bytes(tensors)}
    else:
        contents = {name: serialised(manifest.form, tensors, config)}
    hashes = {name: content_sha256(tensors)}
    files = {
        name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data), content_sha256=hashes.get(name, ""))
        for name, data in contents.items()
    }
    finished = replace(manifest, files=files)
    return finished, {**contents, MANIFEST_NAME: finished.to_json().encode()}


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


def _require_movable(target: Path) -> None:
    if not target.is_dir():
        return
    reason = "a file system is mounted there" if os.path.ismount(target) else ""
    if Path.cwd().is_relative_to(target):
        reason = f"this process works in {Path.cwd()}"
    if reason:
        raise FileExistsError(
            f"expected a folder that can be replaced at {target}, found that {reason}; save to a subfolder of it, "
            f"{target / 'NAME'} for example"
        )


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


def _card_bytes(target: Path, manifest: Manifest, reference: str) -> bytes:
    place = target / CARD_NAME
    try:
        existing = place.read_bytes().decode() if place.is_file() else ""
    except UnicodeDecodeError as error:
        raise CardError(f"expected text in UTF-8 in {place}, found {error}; correct or remove it") from error
    return card(manifest, reference=reference, existing=existing).encode()


def _weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # A second metadata key would make the bytes differ from run to run.
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, metadata={"format": "pt"})


def _fill(folder: Path, target: Path, contents: Mapping[str, bytes]) -> None:
    if target.is_dir():
        # A model card or a git folder beside the artifact is not ours to lose.
        shutil.copytree(target, folder, symlinks=True)
        for stale in [path for path in folder.iterdir() if is_replaced(path.name)]:
            stale.unlink()
    else:
        folder.mkdir()
    for name, data in contents.items():
        (folder / name).unlink(missing_ok=True)  # It may be a link to a file elsewhere.
        (folder / name).write_bytes(data)


def _put_back(aside: Path, target: Path) -> bool:
    """Return to a folder what a save moved out of it that did not end; say whether some of it is nowhere else."""
    old = aside / "old"
    if not ((aside / "new").is_dir() and old.is_dir()):
        return False  # It did end, or it had not begun.
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
            "expected to put back what a save to %s moved, found others there instead of %s in %s; "
            "take from it what you need and remove it",
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
