"""The manifest ``robust_encoder.json``: description and origin of an artifact, and hashes to check its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from robust_encoders.artifact.base import Base, read_base
from robust_encoders.artifact.foreign_files import LFS, foreign
from robust_encoders.concepts import Concept
from robust_encoders.errors import ManifestError
from robust_encoders.utils.bounded_files import read_small
from robust_encoders.utils.json_fields import Fields, short

MANIFEST_NAME = "robust_encoder.json"
SCHEMA = 1
# Largest size in bytes of a manifest that is read; those of this package have up to 211 kB.
MOST_MANIFEST = 2**24

Form = Literal["weights", "adapter", "projection", "delta", "eraser"]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Expected size and hashes of a file of the artifact.

    Args:
        sha256: SHA-256 of the file's bytes, in hexadecimal.
        size: Size of the file in bytes.
        content_sha256: Hash of the file's tensors, see :func:`robust_encoders.artifact.fingerprint.content_sha256`;
            empty for files without tensors. Tensors that the artifact shares with an embedded base count, too.
    """

    sha256: str
    size: int
    content_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class SharedTensor:
    """A tensor of an artifact that is not stored in its file, because an embedded base holds the very same one.

    Args:
        base: Name of the embedded base.
        content_sha256: Hash of the name, dtype, shape and bytes of the tensor, see
            :func:`robust_encoders.artifact.fingerprint.content_sha256`.
    """

    base: str
    content_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of an artifact: all of it except the tensors.

    Args:
        concept: Concept that was erased, with its anchor.
        form: Form in which the change is stored: whole ``weights``, ``adapter``, ``projection``, ``delta``
            or ``eraser``.
        component: Pipeline component that the artifact changes, for example ``text_encoder``.
        method: Name and settings of the erasure method, as ``{"name": ..., **fields}``.
        base: Base that the artifact was made from.
        files: Mapping of paths inside the artifact to expected size and hashes; filled in when the artifact is saved.
        recipe: Settings of the run that made the artifact, enough to run it again.
        versions: Mapping of libraries to the versions that the artifact was made with.
        results: Measured or reported numbers, in the schema of ``results.json``.
        license: SPDX or Hub identifier of the weights' licence.
        shared: Tensors that are stored once, in an embedded base, by name; only encoders inside the package have some.
        schema: Version of the manifest's schema.
    """

    concept: Concept
    form: Form = "weights"
    component: str = "text_encoder"
    method: Mapping[str, Any]
    base: Base
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    results: tuple[Mapping[str, Any], ...] = ()
    license: str = ""
    shared: Mapping[str, SharedTensor] = field(default_factory=dict)
    schema: int = SCHEMA

    @cached_property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest's canonical JSON without this field."""
        text = json.dumps(
            self._body(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_listed
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _body(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "concept": self.concept.to_dict(),
            "form": self.form,
            "component": self.component,
            "method": dict(self.method),
            "base": self.base.to_dict(),
            "files": {path: vars(record) for path, record in sorted(self.files.items())},
            "recipe": dict(self.recipe),
            "versions": dict(self.versions),
            "results": [dict(result) for result in self.results],
            "license": self.license,
            **({"shared": {name: vars(one) for name, one in sorted(self.shared.items())}} if self.shared else {}),
        }

    def to_json(self) -> str:
        """Return the text of ``robust_encoder.json``, with ``manifest_sha256`` as its last field.

        Raises:
            ManifestError: If method, recipe or results hold a value that JSON cannot represent.
        """
        try:
            body = {**self._body(), "manifest_sha256": self.manifest_sha256}
            text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False, default=_listed) + "\n"
        except (TypeError, ValueError) as error:
            raise ManifestError(
                "expected strings, finite numbers, booleans, lists and mappings in method, recipe and results, "
                f"found a value that JSON cannot represent: {error}; convert the value first"
            ) from error
        # Each list of numbers goes on one line, because sketches hold thousands of numbers. The pattern cannot match
        # inside a JSON string, which has no line breaks.
        return re.sub(r"\[\n[-+.\deE,\s]*?\n\s*\]", lambda match: re.sub(r"\s+", "", match[0]), text)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest from its text.

        Raises:
            ManifestError: If the text is no valid manifest; the message lists all problems.
        """
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"expected JSON in {MANIFEST_NAME}, found something else: {error}; fetch the artifact again"
            ) from error
        if isinstance(data, dict) and data.get("schema", SCHEMA) != SCHEMA:
            raise ManifestError(
                f"expected a manifest of schema {SCHEMA}, found {short(data['schema'])}; "
                "upgrade robust_encoders to read artifacts made by a newer version"
            )
        fields = Fields(data, "manifest")
        manifest = _read_manifest(fields)
        fields.raise_problems()
        manifest = cast(Manifest, manifest)
        if _hash_of(manifest) != data["manifest_sha256"]:
            raise ManifestError(
                f"expected manifest_sha256 {manifest.manifest_sha256}, found {short(data['manifest_sha256'])}: "
                f"{MANIFEST_NAME} was edited after it was written; fetch the artifact again"
            )
        return manifest

    @classmethod
    def read(cls, directory: str | Path) -> Manifest:
        """Read the manifest ``robust_encoder.json`` of an artifact.

        Args:
            directory: Folder of the artifact.

        Raises:
            ManifestError: If there is no valid manifest; the message lists all problems.
        """
        path = Path(directory) / MANIFEST_NAME
        try:
            data = read_small(path, MOST_MANIFEST)
            if foreign(data, len(data)) is LFS:
                raise ManifestError(f"expected a manifest at {path}, found {LFS.what}; {LFS.remedy}")
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"expected a manifest at {path}, cannot read it: {error}; pass the folder of an artifact"
            ) from error
        return cls.from_json(text)

    def write(self, directory: str | Path) -> None:
        """Write ``robust_encoder.json`` into an existing folder.

        Args:
            directory: Folder of the artifact.

        Raises:
            ManifestError: If the manifest holds a value that JSON cannot represent.
        """
        (Path(directory) / MANIFEST_NAME).write_text(self.to_json(), encoding="utf-8")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not valid JSON")


def _hash_of(manifest: Manifest) -> str:
    try:
        return manifest.manifest_sha256
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"expected valid text and finite numbers in {MANIFEST_NAME}, found other values: {error}; fetch the "
            "artifact again"
        ) from error


def _listed(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"found {value!r} of type {type(value).__name__}")


def _read_manifest(fields: Fields) -> Manifest | None:
    fields.number("schema")
    values: dict[str, Any] = {
        "concept": _read_concept(fields.child("concept")),
        "form": fields.choice("form", get_args(Form)),
        "component": fields.text("component"),
        "method": fields.mapping("method"),
        "base": read_base(fields.child("base")),
        "files": read_files(fields.child("files")),
        "recipe": fields.mapping("recipe"),
        "versions": fields.strings_by_name("versions"),
        "results": tuple(fields.mappings("results")),
        "license": fields.text("license", empty=True),
        "shared": _read_shared(fields.child("shared")) if fields.has("shared") else {},
    }
    fields.digest("manifest_sha256")
    fields.no_others()
    if "name" not in values["method"]:
        fields.problem("method", "a mapping with a name", values["method"])
    return None if fields.problems else Manifest(**values)


def _read_concept(fields: Fields) -> Concept | None:
    values: dict[str, Any] = {
        "name": fields.text("name"),
        "kind": fields.text("kind"),
        "anchor": fields.text("anchor", empty=True),
        "synonyms": fields.strings("synonyms"),
        "prompts": fields.strings("prompts"),
    }
    if fields.has("parts"):
        values["parts"] = tuple(_read_concept(part) for part in fields.children("parts"))
    fields.no_others()
    if fields.problems:
        return None
    try:
        return Concept(**values)
    except ValueError as error:
        fields.problems.append(f"concept: {error}")
        return None


def _read_shared(fields: Fields) -> dict[str, SharedTensor]:
    shared = {}
    for name in fields.names():
        child = fields.child(name)
        shared[name] = SharedTensor(base=child.text("base"), content_sha256=child.digest("content_sha256"))
        child.no_others()
    return shared


def read_files(fields: Fields) -> dict[str, FileRecord]:
    """Read the names of files with their expected size and hashes; problems are added to ``fields``."""
    records = {}
    for path in fields.names():
        child = fields.child(path)
        if path != Path(path).as_posix() or Path(path).is_absolute() or ".." in Path(path).parts:
            fields.problems.append(f"manifest.files: expected paths inside the artifact, found {short(path)}")
        content = "" if child.is_empty_text("content_sha256") else child.digest("content_sha256")
        records[path] = FileRecord(sha256=child.digest("sha256"), size=child.number("size"), content_sha256=content)
        child.no_others()
    return records
