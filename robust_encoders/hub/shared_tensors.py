"""Tensors that an encoder inside the package shares with its embedded base, such as a table of 49,408 tokens.

The package stores such a tensor once, in the base. The manifest of the encoder names the base and the hash. Loading
puts the tensor in, so the encoder in memory is whole, and so is whatever it saves or pushes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact.embedded_bases import REINSTALL
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import Manifest, SharedTensor
from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.artifact.provenance import provenance
from robust_encoders.artifact.writer import save
from robust_encoders.clip.state_dict import nested
from robust_encoders.errors import AssetsMissingError, IntegrityError
from robust_encoders.hub.embedded import EMBEDDED_BASES, embedded_folder
from robust_encoders.pipeline.textual_inversion import EMBEDDING

_WEIGHTS = Path("base") / "text_encoder" / "model.safetensors"


def shared_tensors(manifest: Manifest) -> dict[str, Tensor]:
    """Return the tensors that an artifact shares with embedded bases, by name; each has the recorded hash.

    Args:
        manifest: Manifest of the artifact.

    Raises:
        AssetsMissingError: If a base is not installed.
        IntegrityError: If a base holds no such tensor, or another one.
    """
    bases = {base: _tensors_of(base) for base in {one.base for one in manifest.shared.values()}}
    return {name: _checked(name, one, bases[one.base]) for name, one in manifest.shared.items()}


def save_shared(
    directory: str | Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    base: str,
    reference: str = "",
) -> Manifest:
    """Save a text encoder without its token table, which an embedded base holds; return the manifest as written.

    Args:
        directory: Target folder; see :func:`robust_encoders.artifact.writer.save`.
        manifest: Manifest of the encoder.
        tensors: All tensors of the encoder.
        config: Configuration of the encoder.
        base: Name of the embedded base.
        reference: Name in the model card's loading example.

    Raises:
        AssetsMissingError: If the base is not installed.
        IntegrityError: If the base's token table is another one.
    """
    own = SharedTensor(base=base, content_sha256=content_sha256({EMBEDDING: tensors[EMBEDDING]}))
    _checked(EMBEDDING, own, _tensors_of(base))
    facts = {**config, "robust_encoders": provenance(manifest, content_sha256(tensors))}
    return save(directory, manifest, tensors, facts, reference=reference, shared={EMBEDDING: own})


def _tensors_of(base: str) -> Mapping[str, Tensor]:
    if base not in EMBEDDED_BASES:
        raise IntegrityError(
            f"expected an embedded base that this version knows ({', '.join(EMBEDDED_BASES)}), found {base!r}; upgrade "
            "robust_encoders, or fetch the artifact again"
        )
    path = embedded_folder(base) / _WEIGHTS
    if not path.is_file():
        raise AssetsMissingError(
            f"expected the embedded base {base!r}, which holds tensors of this encoder, found no {path}; {REINSTALL}"
        )
    return nested(read_owned(path).tensors)


def _checked(name: str, expected: SharedTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    found = content_sha256({name: tensors[name]}) if name in tensors else "no such tensor"
    if found != expected.content_sha256:
        raise IntegrityError(
            f"expected {name} with content hash {expected.content_sha256} in the embedded base {expected.base!r}, "
            f"found {found}: encoder and base belong to different versions; take both from one release of "
            "robust-encoders, or save the encoder whole by `encoder.save_pretrained`"
        )
    return tensors[name]
