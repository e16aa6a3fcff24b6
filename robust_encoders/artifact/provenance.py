"""The provenance of an artifact: in the configuration of a text encoder, and inside the file of weights.

A file of weights is copied, renamed and shared without its folder. What was erased from it, how, from which base and
under which licence is therefore also in the file's own metadata, under one key that other applications leave alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.tensor_files import metadata_of
from robust_encoders.errors import IntegrityError

METADATA_KEY = "robust_encoders"


def provenance(manifest: Manifest, content: str) -> dict[str, Any]:
    """Return the facts that an attached or saved text encoder carries as ``config.robust_encoders``.

    Args:
        manifest: Manifest of the artifact.
        content: Hash of the tensors' contents.
    """
    return {
        "concept": manifest.concept.name,
        "kind": manifest.concept.kind,
        "method": manifest.method["name"],
        "base": manifest.base.family,
        "license": manifest.license,
        "content_sha256": content,
    }


def metadata(manifest: Manifest, content: str, *, exported: str = "") -> dict[str, str]:
    """Return the metadata of a file of weights: the format for other libraries, and the provenance as JSON.

    Args:
        manifest: Manifest of the artifact.
        content: Hash of the tensors' contents, under the names of the artifact.
        exported: Application and base of an export, in words; empty for the artifact itself.

    Raises:
        ValueError: If a fact cannot be written as JSON; the manifest refuses such facts, too.
    """
    facts = {**_facts(manifest, content), **({"exported": exported} if exported else {})}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {"format": "pt", METADATA_KEY: text}


def _facts(manifest: Manifest, content: str) -> dict[str, Any]:
    more = {"form": manifest.form, "component": manifest.component, "base_ids": list(manifest.base.ids)}
    return {**provenance(manifest, content), **more}


def embedded_provenance(path: Path) -> dict[str, Any] | None:
    """Return the provenance inside a file of weights; None if it has none, as files of other projects and old ones.

    Args:
        path: Path of a safetensors file.

    Raises:
        IntegrityError: If the file is no safetensors file, or its provenance is no JSON object.
    """
    text = metadata_of(path).get(METADATA_KEY)
    if text is None:
        return None
    try:
        facts = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected provenance as JSON in {path}, found {error}; fetch the file again") from error
    if not isinstance(facts, dict):
        raise IntegrityError(f"expected provenance as a JSON object in {path}, found {facts!r}; fetch the file again")
    return facts


def require_agreement(found: object, place: Path, manifest: Manifest) -> None:
    """Refuse an artifact whose file states another provenance than the manifest beside it.

    One of the two was changed after the artifact was saved. A manifest with another licence or concept would mislead
    everybody who reads it, so this is no warning. A file without provenance is accepted: earlier versions wrote none.

    Args:
        found: Provenance in the file; None if it has none.
        place: Path of the file.
        manifest: Manifest of the artifact.

    Raises:
        IntegrityError: If facts differ; the message names each of them.
    """
    if found is None:
        return
    facts = found if isinstance(found, Mapping) else {"concept": found}
    if wrong := _differences(_facts(manifest, ""), facts):
        raise IntegrityError(
            f"expected the same provenance in {place} and in the manifest beside it, found "
            + "; ".join(wrong)
            + ": one of them was changed after the artifact was saved; fetch the artifact again"
        )


def _differences(stated: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    # A later version may add facts, so only those that both of them hold are compared. The tensors themselves are
    # verified against the manifest; a variant in another precision keeps the hash of the tensors that it was cast from.
    both = [name for name in stated if name in found and name != "content_sha256"]
    return [
        f"{name}: {found[name]!r} in the file, {stated[name]!r} in the manifest"
        for name in both
        if found[name] != stated[name]
    ]
