"""What an artifact needs before the catalog can list it: facts, base, numbers, card, files, provenance, publication."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from robust_encoders.artifact.card_results import attack_label, withdrawn
from robust_encoders.artifact.forms import weights_name
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.model_card import BEGIN, CARD_NAME, END, words
from robust_encoders.artifact.provenance import embedded_provenance
from robust_encoders.artifact.stated import is_blank, missing_facts
from robust_encoders.errors import DownloadError
from robust_encoders.hub.client import asked
from robust_encoders.hub.download import HubOptions, fetch_file
from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.hub.load import FetchedArtifact, load

# Pickles and code: a place that holds them asks its readers to trust more than tensors.
_UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".h5", ".py", ".sh", ".exe")
LARGEST_OTHER = 10 * 2**20  # bytes
_KEPT = ("retain", "clip_score", "fid", "kid", "lpips_kept", "binding")
_EVALUATE = "`robust-encoders evaluate FOLDER --record`"


class Demand(NamedTuple):
    """One demand of the catalog.

    Args:
        name: Name of the demand.
        ok: True if the artifact meets it.
        found: Finding, in words.
        remedy: Remedy for a demand that is not met; empty or general for one that is.
    """

    name: str
    ok: bool
    found: str
    remedy: str


@dataclass(frozen=True)
class Readiness:
    """The demands of the catalog on an artifact, and its entry.

    Args:
        demands: All demands, in a fixed order.
        entry: Fields of its catalog entry, see :class:`robust_encoders.CatalogEntry`; empty for a folder, which is not
            published yet.
    """

    demands: tuple[Demand, ...]
    entry: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """True if every demand is met."""
        return all(demand.ok for demand in self.demands)


@dataclass(frozen=True)
class _Place:
    """The files beside an artifact: names to sizes in bytes, the card, the weights, and who may see them."""

    sizes: Mapping[str, int]
    card: str
    weights: Path
    public: bool | None = None


def readiness(name: str | Path, *, subfolder: str = "", options: HubOptions | None = None) -> Readiness:
    """Return which demands of the catalog an artifact meets; every byte that its manifest lists is verified.

    Args:
        name: Folder of the artifact, or repository on the Hub as ``org/name``.
        subfolder: Subfolder of the folder or repository.
        options: Revision and token for the Hub.

    Raises:
        RobustEncodersError: If the artifact cannot be loaded, see
            :meth:`robust_encoders.RobustEncoder.from_pretrained`.
    """
    options = options or HubOptions()
    found = load(name, subfolder=subfolder, variant=None, options=options)
    manifest, folder = found.artifact.manifest, found.place.folder
    place = _local(folder, manifest) if folder else _published(found, options)
    demands = (*_facts(manifest), *_base(manifest), *_numbers(manifest), *_files(manifest, place), *_publication(place))
    return Readiness(demands, {} if folder else _entry(found))


def _local(folder: Path, manifest: Manifest) -> _Place:
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    card = folder / CARD_NAME
    return _Place(
        {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
        card.read_bytes().decode(errors="replace") if card.is_file() else "",
        folder / weights_name(manifest.form),
    )


def _published(found: FetchedArtifact, options: HubOptions) -> _Place:
    from huggingface_hub import HfApi

    repo, subfolder, revision = found.place.repo, found.place.subfolder, found.seen.revision or None
    info = asked(
        lambda: HfApi(token=options.token).model_info(repo, revision=revision, files_metadata=True),
        lambda _: DownloadError(f"expected the list of files of {repo}, the Hub does not deliver it; try again later"),
        token=options.token,
        kind=DownloadError,
    )
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    at = HubOptions(revision=revision, cache_dir=options.cache_dir, token=options.token)
    card = f"{subfolder}/{CARD_NAME}".strip("/") in sizes
    return _Place(
        sizes,
        fetch_file(repo, CARD_NAME, subfolder=subfolder, options=at).read_text(errors="replace") if card else "",
        fetch_file(repo, weights_name(found.artifact.manifest.form), subfolder=subfolder, options=at),
        public=not info.private and not info.gated,
    )


def _facts(manifest: Manifest) -> Iterator[Demand]:
    missing = {one.fact: one for one in missing_facts(manifest)}
    stated = {"concept": manifest.concept.name, "method": manifest.method["name"], "licence": manifest.license}
    for fact, value in stated.items():
        one = missing.get(fact)
        yield Demand(fact, one is None, str(value) if one is None else "not stated", one.remedy if one else "")


def _base(manifest: Manifest) -> Iterator[Demand]:
    base, remedy = manifest.base, "`robust-encoders annotate FOLDER --base PIPELINE_FOLDER --base-id ORG/NAME`"
    named = bool(base.ids) or base.family in EMBEDDED_BASES
    yield Demand("base id", named, ", ".join((base.family, *base.ids)), remedy)
    if is_blank(base.family):
        yield Demand("base family", False, "not stated", "`robust-encoders annotate FOLDER --family NAME`")
    needed = ("text_encoder", "tokenizer", *(("unet",) if manifest.form != "weights" else ()))
    lacking = [part for part in needed if getattr(base, part) is None]
    found = f"none of the {' and the '.join(lacking)}" if lacking else "all recorded"
    yield Demand("base fingerprints", not lacking, found, remedy)


def _numbers(manifest: Manifest) -> Iterator[Demand]:
    measured = [one for one in manifest.results if one.get("origin") == "measured" and not withdrawn(one)]
    attacked = [one for one in measured if _is_attacked(one)]
    kept = [one for one in measured if str(one.get("metric", "")).startswith(_KEPT)]
    numbers = {"measured under attack": attacked, "measured on what is kept": kept}
    for name, rows in numbers.items():
        yield Demand(
            name, bool(rows), f"{len(rows)} numbers", f"{_EVALUATE}, with attacks and metrics of a whole suite"
        )


def _is_attacked(result: Mapping[str, Any]) -> bool:
    metric = str(result.get("metric", ""))
    label = attack_label(result) or attack_label(result, "name")
    return metric.startswith("worst_case") or (metric.startswith("asr_") and label not in ("", "none"))


def _files(manifest: Manifest, place: _Place) -> Iterator[Demand]:
    ours = BEGIN in place.card and END in place.card
    fresh = ours and str(words(manifest, "")["title"]) in place.card
    found = "written from this manifest" if fresh else "one of another artifact" if ours else "none from this package"
    yield Demand("card", fresh, found, "save or push the artifact again: both write the card")
    unsafe = [name for name in place.sizes if name.lower().endswith(_UNSAFE)]
    yield Demand("safetensors only", not unsafe, _some(unsafe) or "no pickles and no code", "remove these files")
    # The artifact may lie in a subfolder; the names of its files are unique enough to be recognised by their ends.
    other = [n for n, size in place.sizes.items() if size > LARGEST_OTHER and os.path.basename(n) not in manifest.files]
    limit = f"expected no files above {LARGEST_OTHER // 2**20} MiB that the manifest does not list; remove them"
    yield Demand("size", not other, _some(other) or "nothing large that is not verified", limit)
    carried = embedded_provenance(place.weights) is not None
    yield Demand(
        "provenance in the weights",
        carried,
        f"{'some' if carried else 'none'} in {place.weights.name}",
        "load and save the artifact with this version, for example by `robust-encoders annotate`",
    )


def _publication(place: _Place) -> Iterator[Demand]:
    if place.public is not None:
        found = "public" if place.public else "private or gated"
        yield Demand("published", place.public, found, "make the repository public in its settings on the Hub")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:8])


def _entry(found: FetchedArtifact) -> dict[str, Any]:
    manifest = found.artifact.manifest
    return {
        "concept": manifest.concept.name,
        "kind": manifest.concept.kind,
        "method": manifest.method["name"],
        "base": manifest.base.family,
        "base_ids": list(manifest.base.ids),
        "license": manifest.license,
        "repo": found.place.repo,
        "subfolder": found.place.subfolder,
        "revision": found.seen.revision,
        "sha256": {name: record.sha256 for name, record in found.seen.files.items()},
        "sizes": {name: record.size for name, record in found.seen.files.items()},
    }
