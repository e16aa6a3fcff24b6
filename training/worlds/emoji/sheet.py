"""Contact sheet of the emoji base: pictures with their captions, and what judges see where it is not what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pretrain.corpus import Reader
from .captions import EmojiPrompt, prompts
from .measure import SEED, Measured
from .things import Things
from .vocabulary import LABELS

NUMBER = 100
_COLUMNS = 10
_PICTURE, _GAP, _LETTERS, _LINE, _LINES = 128, 12, 11, 14, 5
_INK, _WRONG, _PAPER = (25, 25, 30), (205, 40, 40), (252, 252, 250)


def sheet_prompts(things: Things, n: int = NUMBER, *, seed: int = SEED) -> list[EmojiPrompt]:
    """Return n captions in held-out wordings; names and held-out words take turns."""
    half = (n + 1) // 2
    pairs = zip(prompts(things, half, seed=seed), prompts(things, half, seed=seed + 1, words="unseen"), strict=True)
    return [*chain.from_iterable(pairs)][:n]


def contact_sheet(base: Measured, n: int = NUMBER, *, seed: int = SEED) -> Image.Image:
    """Draw n captions, and return the sheet of the pictures.

    Args:
        base: Base and judges.
        n: Number of captions.
        seed: Seed of captions and noise.
    """
    asked = sheet_prompts(base.things, n, seed=seed)
    images = base.draw([prompt.text for prompt in asked], seed=seed)
    return sheet(images, asked, base.judges)


def sheet(images: Tensor, asked: Sequence[EmojiPrompt], judges: Mapping[str, Reader]) -> Image.Image:
    """Return pictures as one picture, ten in a row.

    Below each picture stands its caption, and in red what a judge sees where it is not what the caption states.

    Args:
        images: Pictures (B, 3, H, W) in [0, 1].
        asked: Captions of the pictures.
        judges: Judges by the name that the sheet shows.
    """
    seen = {name: judge(images) for name, judge in judges.items()}
    rows = -(-len(asked) // _COLUMNS)
    width, height = _PICTURE + _GAP, _PICTURE + _GAP + _LINES * _LINE
    canvas = Image.new("RGB", (min(_COLUMNS, len(asked)) * width + _GAP, rows * height + _GAP), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for i, (image, prompt) in enumerate(zip(images, asked, strict=True)):
        left, top = _GAP + i % _COLUMNS * width, _GAP + i // _COLUMNS * height
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        canvas.paste(Image.fromarray(pixels).resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST), (left, top))
        lines = [(line, _INK) for line in _wrapped(prompt.text)]
        lines += [(line, _WRONG) for line in _wrong(seen, i, prompt)]
        for k, (line, colour) in enumerate(lines[:_LINES]):
            pen.text((left, top + _PICTURE + 2 + k * _LINE), line, fill=colour, font=ImageFont.load_default(_LETTERS))
    return canvas


def _wrong(seen: Mapping[str, Mapping[str, Sequence[str]]], i: int, prompt: EmojiPrompt) -> list[str]:
    """Return a line for each judge that sees other values than a caption states."""
    found = {
        name: [values[label][i] for label in LABELS if prompt.expected.get(label, values[label][i]) != values[label][i]]
        for name, values in seen.items()
    }
    return [f"{name}: {', '.join(others)}" for name, others in found.items() if others]


def _wrapped(text: str) -> list[str]:
    """Return at most three lines as wide as a picture."""
    lines, font = [""], ImageFont.load_default(_LETTERS)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= _PICTURE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:3]
