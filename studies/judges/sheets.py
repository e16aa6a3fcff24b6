"""Write numbered contact sheets for a pass of labelling: ``python studies/judges/sheets.py PASS OUT``.

Each pass has a random order of its own. A sheet shows 30 pictures, six times as large, and nothing about their origin.
The number above a picture is its place in ``pictures.zip``.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from robust_encoders.utils.home import expanded

HERE = Path(__file__).parent
COLUMNS, ROWS, FACTOR, GAP, TITLE = 6, 5, 6, 12, 18


def pictures() -> list[Image.Image]:
    """Return the sampled pictures, in their order in the file."""
    with zipfile.ZipFile(HERE / "pictures.zip") as file:
        return [Image.open(io.BytesIO(file.read(name))).convert("RGB") for name in sorted(file.namelist())]


def sheet(numbers: list[int], shown: list[Image.Image]) -> Image.Image:
    """Return one contact sheet of numbered pictures."""
    side = 32 * FACTOR
    page = Image.new("RGB", (COLUMNS * (side + GAP) + GAP, ROWS * (side + TITLE + GAP) + GAP), (60, 60, 60))
    draw = ImageDraw.Draw(page)
    for place, number in enumerate(numbers):
        row, column = divmod(place, COLUMNS)
        x, y = GAP + column * (side + GAP), GAP + row * (side + TITLE + GAP)
        draw.text((x, y), str(number), fill=(255, 255, 255), font_size=15)
        page.paste(shown[number].resize((side, side), Image.Resampling.NEAREST), (x, y + TITLE))
    return page


def main() -> None:
    """Write the sheets of one pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, choices=(1, 2))
    parser.add_argument("out", type=expanded)
    chosen = parser.parse_args()
    shown = pictures()
    order = np.random.default_rng(chosen.number).permutation(len(shown)).tolist()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(order), COLUMNS * ROWS):
        page = sheet(order[first : first + COLUMNS * ROWS], shown)
        page.save(chosen.out / f"pass-{chosen.number}-{first // (COLUMNS * ROWS):02d}.png")


if __name__ == "__main__":
    main()
