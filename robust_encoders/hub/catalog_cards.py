"""One model card for every encoder of the catalog: ``robust-encoders cards OUT``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.card_results import NOTHING
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.model_card import LIBRARY, STORED, card, licence_data, rendered, tags, usage
from robust_encoders.artifact.papers import citation, method_name
from robust_encoders.hub.catalog import CATALOG, CatalogEntry
from robust_encoders.hub.embedded import embedded_folder
from robust_encoders.utils.home import expanded

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

PICTURES = "pictures"  # subfolder of the cards


def catalog_cards() -> dict[str, str]:
    """Return a mapping of file names to the texts of all cards.

    Raises:
        ManifestError: If an embedded encoder is not installed: its numbers come from its manifest.
    """
    return {f"{card_stem(entry)}.md": _card(entry) for entry in CATALOG.values()}


def write_cards(folder: str | Path) -> list[Path]:
    """Write every card into a folder, made if need be, and return their paths.

    Args:
        folder: Folder of the cards; the pictures that they show lie in its subfolder ``pictures``.

    Raises:
        ManifestError: If an embedded encoder is not installed.
    """
    folder = expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / name: text for name, text in catalog_cards().items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def card_stem(entry: CatalogEntry) -> str:
    """Return the file name of an entry's card and picture, without their suffix."""
    return entry.name.replace("/", "-")


def _card(entry: CatalogEntry) -> str:
    if entry.embedded:
        folder = embedded_folder(entry.embedded_base) / "encoders" / entry.short_name
        return card(Manifest.read(folder), reference=entry.name, picture=f"{PICTURES}/{card_stem(entry)}.png")
    return rendered(_data(entry), _words(entry))


def _data(entry: CatalogEntry) -> ModelCardData:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        library_name=LIBRARY,
        base_model=entry.base_ids[0] if entry.base_ids else None,
        base_model_relation="finetune" if entry.base_ids else None,
        pipeline_tag="text-to-image",
        tags=[tag for tag in tags(entry.method, erased=entry.kind != "none") if tag != "safetensors"],
        **licence_data(entry.license),
    )


def _words(entry: CatalogEntry) -> Mapping[str, Any]:
    place = f"{entry.repo}, subfolder {entry.subfolder}" if entry.subfolder else entry.repo
    method = method_name(entry.method)
    erased = "nothing was erased: a control" if entry.kind == "none" else f"**{entry.concept}** was erased"
    return {
        "title": entry.name if entry.name == entry.method else f"{entry.name}, by {method}",
        "summary": f"A text encoder for {entry.base}, from which {erased}. It is not ours: its authors made it with "
        f"{method} and published it in {place}.",
        **usage(entry.name, entry.base_ids[0] if entry.base_ids else "path/to/the/base"),
        "instead": _sentence(entry.how),
        "stored": STORED["weights"],
        "results": NOTHING,
        "limits": _limits(entry),
        "recipe": f"Its authors made it; this package has no record of it beyond the method, {entry.method}.",
        "licence": ". ".join(filter(None, (f"Weights: {entry.licence}", _sentence(entry.note)))) + ".",
        "citation": citation(entry.method),
    }


def _limits(entry: CatalogEntry) -> list[str]:
    unpinned = "Unpinned: nobody has recorded a revision or a hash of these files, so nothing proves what you get."
    pickle = "Its authors publish a pickle, which can run code when loaded."
    return [unpinned] * (entry.pin == "unpinned") + [pickle] * (entry.format == "pickle")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
