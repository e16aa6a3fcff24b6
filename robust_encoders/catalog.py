"""The encoders that have a short name: where they are, what they were made for, how they are pinned."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .concepts import ConceptKind

EMBEDDED = "shapes/"
_SD14_IDS = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
)
_ADVUNLEARN = "OPTML-Group/AdvUnlearn"


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One named encoder.

    Args:
        name: Short name for ``RobustEncoder.from_pretrained``.
        concept: What it erases.
        kind: Of that concept.
        method: How it was made.
        base: What it was made from, in words.
        base_ids: Hub ids that share the base's text encoder.
        license: Of the weights.
        repo: On the Hub; empty for encoders inside the package.
        subfolder: Inside the repository.
        revision: Commit of the repository; empty where nobody has taken it yet.
        sha256: File name to hash; empty where nobody has taken them yet.
        sizes: File name to size in bytes, where known.
        format: ``"safetensors"``, or ``"pickle"`` for ``pytorch_model.bin``, which is converted on first use.
    """

    name: str
    concept: str
    kind: ConceptKind
    method: str
    base: str
    base_ids: tuple[str, ...] = ()
    license: str = ""
    repo: str = ""
    subfolder: str = ""
    revision: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    format: Literal["safetensors", "pickle"] = "safetensors"

    @property
    def embedded(self) -> bool:
        """Whether it comes with the package."""
        return not self.repo

    @property
    def pin(self) -> str:
        """``"embedded"``, ``"unpinned"``, or the commit it is pinned to."""
        if self.embedded:
            return "embedded"
        return self.revision if self.revision and self.sha256 else "unpinned"


def _shapes(concept: str, kind: ConceptKind) -> CatalogEntry:
    return CatalogEntry(
        name=f"{EMBEDDED}{concept}",
        concept=concept,
        kind=kind,
        method="advunlearn",
        base="the embedded shapes base",
        license="apache-2.0",
    )


def _advunlearn(name: str, concept: str, kind: ConceptKind) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        concept=concept,
        kind=kind,
        method="advunlearn",
        base="Stable Diffusion 1.4",
        base_ids=_SD14_IDS,
        license="cc-by-4.0",
        repo=_ADVUNLEARN,
        subfolder=f"{name}_unlearned",
        sizes={"pytorch_model.bin": 492_314_807},
        format="pickle",
    )


CATALOG: Mapping[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        _shapes("circle", "object"),
        _shapes("striped", "style"),
        _shapes("red", "attribute"),
        _advunlearn("nudity", "nudity", "content"),
        _advunlearn("vangogh", "Van Gogh", "style"),
        _advunlearn("church", "church", "object"),
        _advunlearn("garbage_truck", "garbage truck", "object"),
        _advunlearn("parachute", "parachute", "object"),
        _advunlearn("tench", "tench", "object"),
    )
}


def entry_at(repo: str, subfolder: str) -> CatalogEntry | None:
    """Return the entry whose weights lie in ``subfolder`` of ``repo``, or None."""
    found = (e for e in CATALOG.values() if not e.embedded and (e.repo, e.subfolder) == (repo, subfolder.strip("/")))
    return next(found, None)


def did_you_mean(name: str) -> str:
    """Return `` Did you mean ...?`` with the closest names, or a list of all of them where none is close."""
    by_end = {known.removeprefix(EMBEDDED): known for known in CATALOG}
    close = difflib.get_close_matches(name, list(CATALOG)) or [
        by_end[end] for end in difflib.get_close_matches(name.rpartition("/")[2], list(by_end))
    ]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known names: {', '.join(CATALOG)}."
