"""Draws the pictures of the documentation: ``python -m website.pictures`` in the root of the repository."""

from __future__ import annotations

from pathlib import Path

from . import charts, diagrams

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def files() -> dict[str, bytes]:
    """Return file name to bytes of every picture that is drawn here."""
    drawn = {"way": diagrams.way(), "entrances": diagrams.entrances(), "tiers": diagrams.tiers()}
    return {**{f"{name}.svg": data for name, data in drawn.items()}, **charts.files()}


def main() -> None:
    """Write every picture into the folder of the documentation."""
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
