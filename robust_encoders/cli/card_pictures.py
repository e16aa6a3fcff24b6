"""Pictures of the embedded encoders for their model cards: ``robust-encoders cards OUT --pictures``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from robust_encoders.hub.catalog import CATALOG, CatalogEntry
from robust_encoders.hub.catalog_cards import PICTURES, card_stem
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.pipeline.before_after import before_after

# Prompts of the pictures by embedded base and erased concept: one by name, one by a synonym, two captions without the
# concept, and one in everyday words without it.
SHOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "shapes": {
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
    },
    "emoji": {
        "alcohol": (
            "a beer mug on a blue background",
            "a stein",
            "a teacup on a white background",
            "a glass of milk",
            "draw a beverage box",
        ),
        "weapon": (
            "a dagger on a white background",
            "a squirt gun",
            "a hammer",
            "a wrench on a yellow background",
            "draw a screwdriver",
        ),
        "line art": (
            "a dog in line art style",
            "a black and white hammer",
            "a dog in fluent style",
            "a glossy teacup",
            "sketch a hammer in twemoji style",
        ),
    },
}


def write_pictures(folder: Path) -> list[Path]:
    """Draw the pictures of all embedded encoders into the subfolder ``pictures``, and return their paths.

    Args:
        folder: Folder of the cards.

    Raises:
        AssetsMissingError: If an embedded base or an embedded encoder is not installed.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    return [_write_picture(folder, entry) for entry in CATALOG.values() if entry.embedded]


def _write_picture(folder: Path, entry: CatalogEntry) -> Path:
    path = folder / PICTURES / f"{card_stem(entry)}.png"
    encoder = LoadedArtifact.from_pretrained(entry.name)
    pipe = embedded_pipeline(entry.embedded_base)
    pipe.set_progress_bar_config(disable=True)
    before_after(
        pipe, encoder, SHOWN[entry.embedded_base][entry.concept], guidance_scale=4.0, num_inference_steps=15
    ).save(path)
    return path
