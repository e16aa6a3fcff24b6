"""Catalog entries that their authors published as pickles: converted once, into a folder of this package's own."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import replace
from pathlib import Path

from robust_encoders.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from robust_encoders.conversion.convert import Origin, convert, file_record
from robust_encoders.conversion.text_config import CONFIG_NAME
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.hub.catalog import CatalogEntry
from robust_encoders.hub.download import HubOptions, commit_of, fetch_artifact
from robust_encoders.hub.pins import Pin, enforce
from robust_encoders.utils.home import home, locked

logger = logging.getLogger(__name__)
PICKLE_NAME = "pytorch_model.bin"


def converted(entry: CatalogEntry, place: str, options: HubOptions) -> Path:
    """Return the folder of the artifact made of a published pickle, converting it if that was not done before.

    What was converted stays as it is, also when the repository moves on, until ``force_download``.

    Args:
        entry: Entry of the catalog.
        place: Place under which it may be pinned; empty to convert whatever is there.
        options: Revision, cache and token to fetch ``pytorch_model.bin`` and ``config.json`` with.

    Raises:
        DownloadError: If the Hub does not deliver.
        IntegrityError: If the file is not as pinned, or no text encoder, or more than one.
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
    """Return what an artifact was converted from, with the hash of the tensors that came of it.

    Args:
        manifest: Manifest of an artifact that :func:`converted` made.
    """
    source = manifest.recipe["source"]
    (content,) = {record.content_sha256 for record in manifest.files.values()} - {""}
    record = FileRecord(sha256=source["sha256"], size=source["size"], content_sha256=content)
    return Pin(files={source["file"]: record}, revision=source["revision"])


def _suffix(revision: str | None) -> str:
    # A branch may be called anything; its name must not become a path.
    return f"@{hashlib.sha256(revision.encode()).hexdigest()[:16]}" if revision else ""


def _convert(entry: CatalogEntry, place: str, options: HubOptions, folder: Path) -> None:
    source = fetch_artifact(
        entry.repo, CONFIG_NAME, lambda _: (PICKLE_NAME,), subfolder=entry.subfolder, options=options
    )
    record = file_record(source / PICKLE_NAME)
    enforce(place, Pin(files={PICKLE_NAME: record}, revision=commit_of(source)), read=False)
    if (size := entry.sizes.get(PICKLE_NAME, record.size)) != record.size:
        warnings.warn(
            f"expected {PICKLE_NAME} of {entry.name} with {size} bytes, as it was when the catalog was written, found "
            f"{record.size}: its publisher changed it; load an older revision if you want the former one",
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
