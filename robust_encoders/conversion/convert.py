"""Conversion of published text encoders to an artifact of this package."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.provenance import provenance
from robust_encoders.artifact.reader import Artifact
from robust_encoders.artifact.writer import save
from robust_encoders.clip.text_model import require_fit
from robust_encoders.concepts import Concept
from robust_encoders.conversion.files import Content, read_file, weights_in
from robust_encoders.conversion.formats import Reading, read
from robust_encoders.conversion.precision import cast_in_words, with_dtype
from robust_encoders.conversion.state_dicts import entry_of, plain, require_no_more
from robust_encoders.conversion.text_config import configuration, family_of, without_last_layer
from robust_encoders.conversion.wrappers import text_encoder_entry
from robust_encoders.utils.dtypes import dtype_or_none
from robust_encoders.utils.home import expanded
from robust_encoders.utils.versions import version

logger = logging.getLogger(__name__)
NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Facts about the origin of published weights.

    Args:
        concept: Concept that the weights have unlearned.
        method: Method by which they unlearned it.
        family: Family of the base, for example ``sd1``; empty to derive it from the architecture.
        base_ids: Hub ids of the base.
        license: Licence of the weights.
        publisher: Publisher of the weights, for example a repository.
        revision: Commit of the repository that the weights come from.
        base: Base with its fingerprints, see :meth:`robust_encoders.Base.from_pipeline`; None leaves them open, because
            the file does not hold them.
    """

    concept: Concept = field(default_factory=lambda: Concept(name=NOT_STATED, kind="content"))
    method: str = NOT_STATED
    family: str = ""
    base_ids: tuple[str, ...] = ()
    license: str = ""
    publisher: str = NOT_STATED
    revision: str = ""
    base: Base | None = None


def convert(
    source: str | Path,
    out: str | Path,
    *,
    origin: Origin | None = None,
    config: str | Path | None = None,
    part: str = "",
    dtype: torch.dtype | str | None = None,
) -> Manifest:
    """Read the text encoder from a file of another format and write it as an artifact of this package.

    Args:
        source: Path of a ``.safetensors``, ``.bin``, ``.pt``, ``.pth`` or ``.ckpt`` file, of the index of several such
            files (``*.index.json``), or of a folder; see :func:`robust_encoders.conversion.files.weights_in`.
        out: Folder of the artifact.
        origin: Facts about the weights' origin; none of them can be read from the file.
        config: Path of the ``config.json`` of the weights, or the name of a published encoder, for example
            ``clip-vit-large-patch14``; by default the file beside the weights.
        part: Name of the entry that holds the text encoder, in a file with one state dict for each component; empty
            for a file that is the text encoder itself.
        dtype: Dtype of the artifact, for example ``torch.float16`` or ``"float16"``; None to keep that of the file.
            Weights of several dtypes or in float8 need one.

    Returns:
        Manifest of the artifact; its ``recipe`` names the source of the conversion. It has fingerprints of the base
        only if ``origin`` gives them, because the file does not hold them.

    Raises:
        IntegrityError: If the file holds no text encoder, holds other objects than tensors, holds a value that is not
            finite, or would take much more memory than its size. Also if the configuration is neither given nor
            determined by the format.
        FileExistsError: If ``out`` holds files that are no artifact.
        ValueError: If ``dtype`` is no precision.
    """
    made = artifact_of(source, origin=origin, config=config, part=part, dtype=dtype)
    facts = provenance(made.manifest, made.content_sha256)
    return save(out, made.manifest, made.tensors, {**made.config, "robust_encoders": facts})


def artifact_of(
    source: str | Path,
    *,
    origin: Origin | None = None,
    config: str | Path | None = None,
    part: str = "",
    dtype: torch.dtype | str | None = None,
) -> Artifact:
    """Return the artifact that :func:`convert` writes, in memory.

    Args:
        source: Path of the file or folder, see :func:`convert`.
        origin: Facts about the weights' origin.
        config: Path of a ``config.json``, or name of a published encoder, see :func:`convert`.
        part: Name of the entry that holds the text encoder; empty for a file that is the text encoder itself.
        dtype: Dtype of the artifact, see :func:`convert`.

    Raises:
        IntegrityError: If the file holds no text encoder, see :func:`convert`.
        ValueError: If ``dtype`` is no precision.
    """
    precision = dtype_or_none(dtype)
    path = weights_in(expanded(source))
    content = read_file(path)
    data, entry = (entry_of(content.data, part, path), part) if part else text_encoder_entry(content.data)
    found = read(plain(data, path))
    settings, settings_from = configuration(path, config, found)
    kept, shorter = without_last_layer(found, settings)
    require_no_more(kept, content.size, path)
    tensors = with_dtype(kept, precision, path)
    require_fit(tensors, settings)
    recipe = {
        "name": "convert",
        "source": _source(path, content, found, ".".join(filter(None, (content.entry, entry)))),
        "configuration": settings_from,
        "dropped": [*found.dropped, *["the last layer, which SD 2 does not compute"] * shorter],
    }
    if cast := cast_in_words(kept, precision):
        recipe["cast"] = cast
    manifest = _manifest(origin or Origin(), settings, recipe)
    logger.info("converting %s (%s%s)", path, found.layout.name, f"; cast from {cast}" * bool(cast))
    return Artifact(manifest, tensors, settings, content_sha256(tensors))


def _source(path: Path, content: Content, found: Reading, entry: str) -> dict[str, Any]:
    source: dict[str, Any] = {
        "file": path.name,
        "size": content.record.size,
        "sha256": content.record.sha256,
        "layout": found.layout.name,
    }
    if entry:
        source["entry"] = entry
    if content.shards:
        source["shards"] = {name: {"size": one.size, "sha256": one.sha256} for name, one in content.shards.items()}
    return source


def _manifest(origin: Origin, settings: Mapping[str, Any], recipe: dict[str, Any]) -> Manifest:
    taken = {"publisher": origin.publisher, "revision": origin.revision or NOT_STATED}
    return Manifest(
        concept=origin.concept,
        method={"name": origin.method},
        base=origin.base or Base(family=origin.family or family_of(settings), ids=origin.base_ids),
        recipe={**recipe, "source": {**recipe["source"], **taken}},
        versions={name: version(name) for name in ("robust-encoders", "safetensors", "torch")},
        license=origin.license,
    )
