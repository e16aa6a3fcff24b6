"""Load an artifact by name: find it, download or convert it, compare it with the pins, then read and verify it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from robust_encoders.artifact.forms import file_names, weights_name
from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.artifact.reader import Artifact, Trust, read_artifact, read_manifest
from robust_encoders.artifact.verified_files import remembered
from robust_encoders.errors import IntegrityError
from robust_encoders.hub.catalog import refuse_foreign
from robust_encoders.hub.download import HubOptions, commit_of, fetch_artifact
from robust_encoders.hub.pins import Pin, enforce
from robust_encoders.hub.published_pickles import converted, source_of
from robust_encoders.hub.resolve import Location, resolve
from robust_encoders.hub.shared_tensors import shared_tensors


class FetchedArtifact(NamedTuple):
    """An artifact, the place where it was found, and the files and hashes that a pin can record."""

    artifact: Artifact
    place: Location
    seen: Pin

    @property
    def source(self) -> str:
        """Place where the artifact was found, in words: a folder, or a repository and its commit."""
        return f"{self.place.key}@{self.seen.revision}" if self.seen.revision else self.place.key


def load(
    name_or_path: str | Path, *, subfolder: str, variant: str | None, options: HubOptions, enforced: bool = True
) -> FetchedArtifact:
    """Return an artifact, verified against its manifest, the catalog and the pins.

    Args:
        name_or_path: Name or folder, see :func:`robust_encoders.hub.resolve.resolve`.
        subfolder: Subfolder of the folder or repository.
        variant: Name of a variant; ``model.<variant>.safetensors`` is loaded instead of ``model.safetensors``.
        options: Revision, cache and token for the Hub.
        enforced: True to refuse files that differ from the pins; false to ignore the pins and verify every byte again.

    Raises:
        RobustEncodersError: If loading fails, see :meth:`robust_encoders.RobustEncoder.from_pretrained`.
    """
    place = resolve(name_or_path, subfolder=subfolder, revision=options.revision)
    refuse_foreign(place.entry)
    options = replace(options, revision=place.revision)
    pickled = place.entry is not None and place.entry.format == "pickle"
    if place.entry is not None and pickled:
        folder = converted(place.entry, place.key if enforced else "", options)
    else:
        folder = place.folder or _fetch(place, variant, options)
    manifest = read_manifest(folder)
    weights = weights_name(manifest.form, variant)
    seen = source_of(manifest) if pickled else Pin(files=manifest.files, revision=commit_of(folder))
    _require_catalogued(place, seen)
    pin = enforce(place.key, seen) if enforced else None
    trust = _trusted(folder, manifest, weights, converted=pickled, pin=pin) if enforced else Trust()
    shared = shared_tensors(manifest)
    return FetchedArtifact(read_artifact(folder, manifest, weights, trust=trust, shared=shared), place, seen)


def _trusted(folder: Path, manifest: Manifest, weights: str, *, converted: bool, pin: Pin | None) -> Trust:
    """Decide which checks of an artifact's weights an earlier load has already done.

    Args:
        folder: Folder of the artifact.
        manifest: Manifest of the artifact.
        weights: Name of the file of weights.
        converted: True if this package converted the artifact from a pickle, and so verified its contents.
        pin: Pin of the place, with which the manifest agrees; None if nothing is pinned.
    """
    record = manifest.files.get(weights)
    if record is None or manifest.form != "weights":  # overlays are verified completely every time
        return Trust()
    # A pin names all variants, but only the default weights were read when the pin was made.
    pinned = pin.files.get(weights) if pin is not None and weights == weights_name(manifest.form) else None
    proven = converted or (pinned is not None and pinned.content_sha256 != "")
    return Trust(contents=proven, unchanged=remembered(folder / weights, record))


def _fetch(place: Location, variant: str | None, options: HubOptions) -> Path:
    def others(folder: Path) -> tuple[str, ...]:
        return file_names(read_manifest(folder).form, variant)

    return fetch_artifact(place.repo, MANIFEST_NAME, others, subfolder=place.subfolder, options=options)


def _require_catalogued(place: Location, seen: Pin) -> None:
    hashes = {} if place.entry is None else place.entry.sha256
    found = {name: seen.files[name].sha256 if name in seen.files else "no such file" for name in hashes}
    if wrong := [name for name in hashes if hashes[name] != found[name]]:
        raise IntegrityError(
            f"expected the files of {place.key} that the catalog records, found other files: "
            + "; ".join(f"{name}: expected sha256 {hashes[name]}, found {found[name]}" for name in wrong)
            + "; fetch it at the catalog's revision, or upgrade robust_encoders"
        )
