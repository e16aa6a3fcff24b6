"""The catalog of encoders with a short name: their place, their concept and base, their licence and their pins."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from robust_encoders.concepts import Concept, ConceptKind
from robust_encoders.errors import ConversionNeededError
from robust_encoders.redaction import get_logger

logger = get_logger(__name__)
_SD14_IDS = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
)
_ADVUNLEARN = "OPTML-Group/AdvUnlearn"


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One encoder of the catalog.

    Args:
        name: Short name for ``RobustEncoder.from_pretrained``.
        concept: Concept that the encoder erases.
        kind: Kind of that concept; ``"none"`` for a control, from which nothing was erased.
        method: Name of the method that made the encoder.
        base: Base that it was made from, in words.
        base_ids: Hub ids of pipelines that share the base's text encoder.
        license: Licence of the weights.
        terms: Warning about that licence in a word or two, for example ``non-commercial``.
        note: Warning about that licence in a sentence: the place where the licence was read, or a contradiction.
        repo: Repository on the Hub; empty for encoders inside the package.
        subfolder: Subfolder of the repository; empty for its root.
        revision: Commit of the repository; empty if none is recorded.
        sha256: Mapping of file names to SHA-256 hashes; empty if none are recorded.
        sizes: Mapping of file names to sizes in bytes, as far as known.
        format: Format of the weights. ``"safetensors"``; ``"pickle"`` for ``pytorch_model.bin``, converted on first
            use; ``"foreign"`` for weights that this version does not fetch.
        how: Advice on using the weights if the format is ``"foreign"``.
    """

    name: str
    concept: str
    kind: ConceptKind | Literal["none"]
    method: str
    base: str
    base_ids: tuple[str, ...] = ()
    license: str = ""
    terms: str = ""
    note: str = ""
    repo: str = ""
    subfolder: str = ""
    revision: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    format: Literal["safetensors", "pickle", "foreign"] = "safetensors"
    how: str = ""

    def erased(self) -> Concept:
        """Return the erased concept, as far as the catalog knows it.

        Raises:
            ValueError: If the entry is a control, from which nothing was erased.
        """
        if self.kind == "none":
            raise ValueError(
                f"expected an encoder that erases a concept, found the control {self.name!r}, which erases none; "
                "choose another encoder"
            )
        return Concept(name=self.concept, kind=self.kind)

    @property
    def embedded(self) -> bool:
        """True if the encoder comes with the package."""
        return not self.repo

    @property
    def embedded_base(self) -> str:
        """Name of the embedded base that an encoder of the package is made for; empty for other encoders."""
        return self.name.partition("/")[0] if self.embedded else ""

    @property
    def short_name(self) -> str:
        """Name without the embedded base; the whole name of other encoders."""
        return self.name.removeprefix(f"{self.embedded_base}/")

    @property
    def pin(self) -> str:
        """Pin of the entry: ``"embedded"``, ``"unpinned"``, or the commit that it is pinned to."""
        if self.embedded:
            return "embedded"
        return self.revision if self.revision and self.sha256 else "unpinned"

    @property
    def licence(self) -> str:
        """Licence of the weights, with its warning in brackets if there is one."""
        return f"{self.license} ({self.terms})" if self.terms else self.license


def _embedded(base: str, concept: str, kind: ConceptKind, method: str = "") -> CatalogEntry:
    """Return the entry of an embedded artifact: AdvUnlearn's whole encoder, or the overlay of another method."""
    short = f"{concept}-{method}" if method else concept
    return CatalogEntry(
        name=f"{base}/{short.replace(' ', '_')}",
        concept=concept,
        kind=kind,
        method=method or "advunlearn",
        base=f"the embedded {base} base",
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


_CLIP_L = "CLIP ViT-L/14, as in Stable Diffusion 1.x"
_NOT_ERASED = "nothing: a control"


def _foreign(
    name: str, repo: str, method: str, base: str, license: str, *, how: str, terms: str = "", note: str = ""
) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        concept="unsafe content",
        kind="content",
        method=method,
        base=base,
        license=license,
        terms=terms,
        note=note,
        repo=repo,
        format="foreign",
        how=how,
    )


def _control(entry: CatalogEntry) -> CatalogEntry:
    return replace(entry, concept=_NOT_ERASED, kind="none")


def _by_transformers(repo: str) -> str:
    return (
        f'load its text encoder with transformers.CLIPTextModel.from_pretrained("{repo}", use_safetensors=True) and '
        "pass it as text_encoder= to the pipeline; if the repository holds only a pickle, download it with its "
        "config.json and give both to `robust-encoders convert`; without that conversion, this package's checks do "
        "not apply to it"
    )


def _by_file(name: str) -> str:
    return (
        f"the file {name} holds its text encoder alone: download it, load it as its card says, and pass it as "
        "text_encoder= to the pipeline; this package's checks do not apply to it"
    )


_NC = "non-commercial"
_SAFE_CLIP_NOTE = "the licence was read on the card of aimagelab/safeclip_vit-h_14, not on the card of this repository"
_SAGE_NOTE = (
    "the licences contradict each other: MIT on the Hub, but CC BY-NC 4.0 for its published code and for DES, from "
    "which that code says it is derived; treat it as non-commercial until its authors settle the question"
)
_SAFE_CLIP_L, _SAFE_CLIP_H, _SAFE_CLIP_SD20 = (
    "aimagelab/safeclip_vit-l_14",
    "aimagelab/safeclip_vit-h_14",
    "aimagelab/safeclip_sd_20",
)
_SAFER_CLIP = "Adeely93/SafeR_CLIP"
_LEAF = "LEAF-CLIP/CLIP-ViT-L-rho50-k1-constrained-FARE2"
_OTHERS = (
    _foreign("safe-clip", _SAFE_CLIP_L, "safe-clip", _CLIP_L, "cc-by-nc-4.0", terms=_NC, note=_SAFE_CLIP_NOTE,
             how=_by_transformers(_SAFE_CLIP_L)),
    _foreign("safe-clip-h", _SAFE_CLIP_H, "safe-clip", "OpenCLIP ViT-H/14, as in Stable Diffusion 2.x",
             "cc-by-nc-4.0", terms=_NC, how=_by_transformers(_SAFE_CLIP_H)),
    _foreign("safe-clip-sd20", _SAFE_CLIP_SD20, "safe-clip", "Stable Diffusion 2.0", "cc-by-nc-4.0", terms=_NC,
             note=_SAFE_CLIP_NOTE, how=_by_transformers(_SAFE_CLIP_SD20)),
    _foreign("safer-clip", _SAFER_CLIP, "safer-clip", _CLIP_L, "cc-by-nc-4.0", terms=_NC,
             how=_by_transformers(_SAFER_CLIP)),
    _foreign("sage", "Adeely93/SAGE", "sage", "Stable Diffusion 1.4", "cc-by-nc-4.0",
             terms=f"{_NC}, contradictory", note=_SAGE_NOTE,
             how="its only file, SAGE.pt, is a pickle with a training state, which this version does not read; ask "
             "its authors for a whole text encoder as safetensors"),
    _control(_foreign("leaf", _LEAF, "leaf", _CLIP_L, "mit", how=_by_transformers(_LEAF))),
    _control(_foreign("clip-gmp", "zer0int/CLIP-GmP-ViT-L-14", "clip-gmp", _CLIP_L, "mit",
                      how=_by_file("ViT-L-14-BEST-smooth-GmP-TE-only-HF-format.safetensors"))),
    _control(_foreign("clip-sae", "zer0int/CLIP-SAE-ViT-L-14", "clip-sae", _CLIP_L, "mit",
                      how=_by_file("ViT-L-14-GmP-SAE-TE-only.safetensors"))),
)  # fmt: skip

_SHAPES: Mapping[str, ConceptKind] = {"circle": "object", "striped": "style", "red": "attribute"}

CATALOG: Mapping[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        *(_embedded("shapes", concept, kind) for concept, kind in _SHAPES.items()),
        *(
            _embedded("shapes", concept, kind, method)
            for concept, kind in _SHAPES.items()
            for method in ("spm", "rece")
        ),
        _advunlearn("nudity", "nudity", "content"),
        _advunlearn("vangogh", "Van Gogh", "style"),
        _advunlearn("church", "church", "object"),
        _advunlearn("garbage_truck", "garbage truck", "object"),
        _advunlearn("parachute", "parachute", "object"),
        _advunlearn("tench", "tench", "object"),
        *_OTHERS,
    )
}


def entry_at(repo: str, subfolder: str) -> CatalogEntry | None:
    """Return the entry whose weights lie in ``subfolder`` of ``repo``, or None."""
    found = (e for e in CATALOG.values() if not e.embedded and (e.repo, e.subfolder) == (repo, subfolder.strip("/")))
    return next(found, None)


def announce(name_or_path: str | Path, subfolder: str) -> None:
    """Log the licence of weights in the catalog before they are loaded; refuse formats that this version cannot read.

    Args:
        name_or_path: Name or folder, see :meth:`robust_encoders.RobustEncoder.from_pretrained`.
        subfolder: Subfolder of the repository.

    Raises:
        ConversionNeededError: If the weights exist, but in a layout that this version does not read.
    """
    name = os.fspath(name_or_path)
    entry = None if isinstance(name_or_path, Path) else CATALOG.get(name)
    if entry is None and not Path(name).is_dir():
        entry = entry_at(name, subfolder)
    if entry is None:
        return
    refuse_foreign(entry)
    logger.log(logging.WARNING if entry.terms else logging.INFO, "%s: %s", entry.name, _licence_in_words(entry))


def refuse_foreign(entry: CatalogEntry | None) -> None:
    """Refuse weights that the catalog only lists, before anything of theirs is fetched.

    Args:
        entry: Entry of the weights; None for weights outside the catalog, which are not refused.

    Raises:
        ConversionNeededError: If the weights exist, but in a layout that this version does not read.
    """
    if entry is not None and entry.format == "foreign":
        raise ConversionNeededError(
            f"expected a robust_encoders artifact, found weights of another layout: {entry.name!r} is published in "
            f"{entry.repo}, {_licence_in_words(entry)}. Do this instead: {entry.how}"
        )


def _licence_in_words(entry: CatalogEntry) -> str:
    return f"licence {entry.licence}" + (f"; {entry.note}" if entry.note else "")


def did_you_mean(name: str) -> str:
    """Return ``Did you mean ...?`` with the closest names, or the list of all names if none is close."""
    by_end = {entry.short_name: known for known, entry in CATALOG.items()}
    close = difflib.get_close_matches(name, list(CATALOG)) or [
        by_end[end] for end in difflib.get_close_matches(name.rpartition("/")[2], list(by_end))
    ]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known names: {', '.join(CATALOG)}."
