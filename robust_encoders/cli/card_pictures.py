"""Pictures of the embedded encoders for their model cards: ``robust-encoders cards OUT --pictures``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from robust_encoders.hub.catalog import CATALOG, CatalogEntry
from robust_encoders.hub.catalog_cards import PICTURES, card_stem
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.pipeline.before_after import before_after

# Prompts of the pictures by erased concept: its name, a synonym, two captions without it, and one in everyday words.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "circle": (
        "a red circle on a white background",
        "a blue ball",
        "a yellow square",
        "a green star",
        "draw a red square",
    ),
    "red": (
        "a red square on a white background",
        "a crimson star",
        "a blue square",
        "a yellow ring",
        "draw a blue star",
    ),
    "striped": (
        "a striped blue square",
        "a banded red star",
        "a dotted green circle",
        "a pink ring",
        "draw a red star",
    ),
}


def write_pictures(folder: Path) -> list[Path]:
    """Draw the pictures of all embedded encoders into the subfolder ``pictures``, and return their paths.

    Args:
        folder: Folder of the cards.

    Raises:
        AssetsMissingError: If the embedded base or an embedded encoder is not installed.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    return [_write_picture(folder, entry) for entry in CATALOG.values() if entry.embedded]


def _write_picture(folder: Path, entry: CatalogEntry) -> Path:
    path = folder / PICTURES / f"{card_stem(entry)}.png"
    encoder = LoadedArtifact.from_pretrained(entry.name)
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    before_after(pipe, encoder, SHOWN[entry.concept], guidance_scale=4.0, num_inference_steps=15).save(path)
    return path
