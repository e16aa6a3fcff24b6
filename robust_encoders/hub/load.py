"""From a name to a verified encoder: resolve, fetch or convert, compare with the pins, read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from robust_encoders.artifact.forms import file_names, weights_name
from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.artifact.reader import Artifact, Trust, read_artifact, read_manifest
from robust_encoders.artifact.verified_files import remembered
from robust_encoders.errors import IntegrityError
from robust_encoders.hub.download import HubOptions, commit_of, fetch_artifact
from robust_encoders.hub.pins import Pin, enforce
from robust_encoders.hub.published_pickles import converted, source_of
from robust_encoders.hub.resolve import Location, resolve


class FetchedArtifact(NamedTuple):
    """An artifact, where it was found, and what of it a pin can hold."""

    artifact: Artifact
    place: Location
    seen: Pin

    @property
    def source(self) -> str:
        """Where it was found, in words: a folder, or a repository and its commit."""
        return f"{self.place.key}@{self.seen.revision}" if self.seen.revision else self.place.key


def load(
    name_or_path: str | Path, *, subfolder: str, variant: str | None, options: HubOptions, enforced: bool = True
) -> FetchedArtifact:
    """Return an artifact, verified against its manifest, the catalog and the pins.

    Args:
        name_or_path: A name or a folder, as in :func:`robust_encoders.hub.resolve.resolve`.
        subfolder: Subfolder of the folder or repository.
        variant: Load ``model.<variant>.safetensors``.
        options: Revision, cache and token for the Hub.
        enforced: Refuse what is not as pinned; false reads every byte anew and disregards the pins.

    Raises:
        RobustEncodersError: As :meth:`robust_encoders.RobustEncoder.from_pretrained` says.
    """
    place = resolve(name_or_path, subfolder=subfolder, revision=options.revision)
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
    return FetchedArtifact(read_artifact(folder, manifest, weights, trust=trust), place, seen)


def _trusted(folder: Path, manifest: Manifest, weights: str, *, converted: bool, pin: Pin | None) -> Trust:
    """Decide what of an artifact's weights need not be verified again.

    Args:
        folder: Folder of the artifact.
        manifest: Manifest of the artifact.
        weights: Name of the file of weights.
        converted: This package made the artifact from a pickle, and proved its contents then.
        pin: Files that are pinned at the place, which the manifest agrees with; None if nothing is pinned.
    """
    record = manifest.files.get(weights)
    if record is None or manifest.form != "weights":  # small forms cost too little for anything to be noted of them
        return Trust()
    # A pin names all variants, but only the default weights were read when it was made.
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
            f"expected {place.key} as the catalog knows it, found other files: "
            + "; ".join(f"{name}: expected sha256 {hashes[name]}, found {found[name]}" for name in wrong)
            + "; fetch it at the catalog's revision, or upgrade robust_encoders"
        )
