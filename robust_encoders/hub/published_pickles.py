"""Catalog entries whose authors published pickles: they are converted once, into a folder of this package."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from robust_encoders.conversion.convert import Origin, convert
from robust_encoders.conversion.files import file_record
from robust_encoders.conversion.text_config import CONFIG_NAME
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.hub.catalog import CatalogEntry
from robust_encoders.hub.download import HubOptions, commit_of, fetch_artifact
from robust_encoders.hub.pins import Pin, enforce
from robust_encoders.redaction import get_logger
from robust_encoders.utils.home import home, locked

logger = get_logger(__name__)
PICKLE_NAME = "pytorch_model.bin"


def converted(entry: CatalogEntry, place: str, options: HubOptions) -> Path:
    """Return the folder of the artifact converted from a published pickle; convert it on the first call.

    A converted artifact stays as it is, even if the repository changes. ``force_download`` converts it again.

    Args:
        entry: Entry of the catalog.
        place: Name of the place in the pins file; empty to convert without comparing with a pin.
        options: Revision, cache and token for the download of ``pytorch_model.bin`` and ``config.json``.

    Raises:
        DownloadError: If the Hub does not deliver a file.
        IntegrityError: If the file differs from its pin, or holds no text encoder or more than one.
    """
    options = replace(options, revision=options.revision or entry.revision or None)
    folder = home() / "converted" / (entry.name + _suffix(options.revision))
    if options.force_download or not (folder / MANIFEST_NAME).is_file():
        with locked(folder):
            if options.force_download or not (folder / MANIFEST_NAME).is_file():
                _convert(entry, place, options, folder)
    logger.info("%s: published by %s, licence %s", entry.name, entry.repo, entry.license)
    return folder


def source_of(manifest: Manifest) -> Pin:
    """Return the pickle that an artifact was converted from, as a pin that includes the hash of the tensors.

    Args:
        manifest: Manifest of an artifact that :func:`converted` made.
    """
    source = manifest.recipe["source"]
    (content,) = {record.content_sha256 for record in manifest.files.values()} - {""}
    record = FileRecord(sha256=source["sha256"], size=source["size"], content_sha256=content)
    return Pin(files={source["file"]: record}, revision=source["revision"])


def _suffix(revision: str | None) -> str:
    # The revision is hashed, because the name of a branch may be unsafe as a part of a path.
    return f"@{hashlib.sha256(revision.encode()).hexdigest()[:16]}" if revision else ""


def _convert(entry: CatalogEntry, place: str, options: HubOptions, folder: Path) -> None:
    source = fetch_artifact(
        entry.repo, CONFIG_NAME, lambda _: (PICKLE_NAME,), subfolder=entry.subfolder, options=options
    )
    record = file_record(source / PICKLE_NAME)
    enforce(place, Pin(files={PICKLE_NAME: record}, revision=commit_of(source)), read=False)
    if (size := entry.sizes.get(PICKLE_NAME, record.size)) != record.size:
        warnings.warn(
            f"expected {PICKLE_NAME} of {entry.name} with {size} bytes, its size when the catalog was written, found "
            f"{record.size}: its publisher changed it; load an older revision if you want the previous file",
            CompatibilityWarning,
            stacklevel=2,
        )
    origin = Origin(
        concept=entry.erased(),
        method=entry.method,
        base_ids=entry.base_ids,
        license=entry.license,
        publisher=f"{entry.repo}, subfolder {entry.subfolder}",
        revision=commit_of(source),
    )
    convert(source / PICKLE_NAME, folder, origin=origin, config=source / CONFIG_NAME)
