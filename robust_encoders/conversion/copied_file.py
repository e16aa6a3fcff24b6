"""Files of weights that were copied out of an artifact: their provenance, and if their tensors are unchanged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple, get_args

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.provenance import embedded_provenance
from robust_encoders.concepts import ConceptKind
from robust_encoders.conversion.export_stream import TensorFile
from robust_encoders.conversion.formats import LAYOUTS, read
from robust_encoders.conversion.text_config import layer_numbers, without_last_layer
from robust_encoders.errors import IntegrityError

logger = logging.getLogger(__name__)


class CopiedFile(NamedTuple):
    """A file of weights with provenance inside.

    Args:
        facts: Provenance: concept, kind, method, base, licence, form and content hash.
        unchanged: True if the tensors are those of the artifact, also under the names of another layout.
    """

    facts: dict[str, Any]
    unchanged: bool


def copied_file(path: Path) -> CopiedFile | None:
    """Return what a file of weights says about itself; None if it carries no provenance.

    Args:
        path: Path of a safetensors file.

    Raises:
        IntegrityError: If the file is no safetensors file, or its provenance is malformed.
    """
    facts = embedded_provenance(path)
    return None if facts is None else CopiedFile(facts, _is_unchanged(path, facts))


def carried_facts(source: Path) -> dict[str, Any]:
    """Return the facts inside a file that is to be converted, if its tensors are the ones that they were stated for.

    Args:
        source: Path of a file, or of a folder with exactly one file of weights.

    Raises:
        IntegrityError: If a safetensors file is malformed.
    """
    files = list(source.glob("*.safetensors")) if source.is_dir() else [source]
    found = copied_file(files[0]) if len(files) == 1 and files[0].suffix == ".safetensors" else None
    if found is None:
        return {}
    if not found.unchanged:
        logger.warning(
            "%s says that it erases %r, but its tensors are not those of that encoder: it was changed since; its facts "
            "are not taken over",
            files[0], found.facts.get("concept"),
        )  # fmt: skip
        return {}
    if wrong := sorted(name for name, value in found.facts.items() if not _is_fact(name, value)):
        raise IntegrityError(
            f"expected texts as provenance in {files[0]}, found {', '.join(wrong)} of another type or empty; save the "
            "file without metadata, and state its facts by options"
        )
    logger.info("%s says what is known of it: %r erased by %s", files[0], *map(found.facts.get, ("concept", "method")))
    return found.facts


def _is_fact(name: str, value: object) -> bool:
    if name == "base_ids":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if name == "kind":
        return value in get_args(ConceptKind)
    return isinstance(value, str) and bool(value.strip() or name == "license")


def _is_unchanged(path: Path, facts: dict[str, Any]) -> bool:
    file, expected = TensorFile.opened(path), facts.get("content_sha256")
    shared = [layout for layout in LAYOUTS if layout.shared and any(map(layout.holds, file.entries))]
    # Of a whole checkpoint only the text encoder is read.
    names = [name for name in file.entries if not shared or any(layout.holds(name) for layout in shared)]
    tensors = {name: file.read(name) for name in names}
    if content_sha256(tensors) == expected:
        return True
    try:
        found = read(tensors)
    except IntegrityError:
        return False  # no text encoder in any known layout
    shorter = without_last_layer(found, {"num_hidden_layers": len(layer_numbers(found.tensors)) - 1})[0]
    return expected in [content_sha256(one) for one in (found.tensors, shorter)]
