"""A picture with pairs of pictures before and after, their prompts and their verdicts, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PICTURE = 128  # pixels that a picture is enlarged to
_GAP, _BETWEEN, _MARGIN = 8, 30, 28
_LINE = 17
_BORDER = 4
_INK, _FAINT, _PAPER = (25, 25, 30), (105, 105, 115), (252, 252, 250)
_GOOD, _BAD = (30, 140, 70), (205, 40, 40)
_PROMPT_LINES = 3


@dataclass(frozen=True)
class Tile:
    """One picture with its verdict.

    Args:
        picture: Picture (3, H, W) in [0, 1].
        verdict: Verdict of the judge in a few words.
        good: True if an erased model should draw this.
    """

    picture: Tensor
    verdict: str
    good: bool


@dataclass(frozen=True)
class Pair:
    """The pictures of one prompt and one seed, before and after.

    Args:
        prompt: Prompt of both pictures.
        before: Picture without the encoder.
        after: Picture with the encoder.
        heading: Title of this pair alone; empty if the section's title says it.
    """

    prompt: str
    before: Tile
    after: Tile
    heading: str = ""


@dataclass(frozen=True)
class Section:
    """One row of pairs under a title.

    Args:
        title: Description of the prompts.
        pairs: Pairs of pictures, from left to right.
        kept: True if the prompts do not state the erased concept.
    """

    title: str
    pairs: tuple[Pair, ...]
    kept: bool = False


def draw_grid(title: str, notes: Sequence[str], sections: Sequence[Section]) -> Image.Image:
    """Return the picture of all sections, one row each.

    Args:
        title: Title on top, in large letters.
        notes: Lines below the title.
        sections: Rows of pairs; the row with the most pairs sets the width.

    Raises:
        ValueError: If there are no pairs.
    """
    columns = max((len(section.pairs) for section in sections), default=0)
    if columns == 0:
        raise ValueError("expected at least one pair of pictures, found none")
    head = _MARGIN + (40 if title else 0) + len(notes) * (_LINE + 3) + (16 if title or notes else 0)
    width = 2 * _MARGIN + columns * _pair_width() + (columns - 1) * _BETWEEN
    canvas = Image.new("RGB", (width, head + len(sections) * _row_height() + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, _MARGIN - 6), title, fill=_INK, font=font_of(26))
    for i, note in enumerate(notes):
        pen.text((_MARGIN, _MARGIN + 34 + i * (_LINE + 3)), note, fill=_FAINT, font=font_of(14))
    for row, section in enumerate(sections):
        _draw_section(canvas, pen, section, head + row * _row_height())
    return canvas


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures below each other, flush left, on paper as wide as the widest.

    Args:
        pictures: Pictures, the topmost first.

    Raises:
        ValueError: If there are none.
    """
    if not pictures:
        raise ValueError("expected at least one picture, found none")
    canvas = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), _PAPER)
    top = 0
    for one in pictures:
        canvas.paste(one, (0, top))
        top += one.height
    return canvas


def _pair_width() -> int:
    return 2 * PICTURE + _GAP


def _row_height() -> int:
    return 30 + 20 + PICTURE + 22 + _PROMPT_LINES * _LINE + 26


def _draw_section(canvas: Image.Image, pen: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    pen.line([(_MARGIN, top), (canvas.width - _MARGIN, top)], fill=(215, 215, 215))
    pen.text((_MARGIN, top + 6), section.title, fill=_INK, font=font_of(17))
    for column, pair in enumerate(section.pairs):
        left = _MARGIN + column * (_pair_width() + _BETWEEN)
        pen.text((left, top + 6), pair.heading, fill=_INK, font=font_of(17))
        for tile, name, x in ((pair.before, "before", left), (pair.after, "after", left + PICTURE + _GAP)):
            pen.text((x, top + 32), name, fill=_FAINT, font=font_of(13))
            _draw_tile(canvas, pen, tile, (x, top + 50))
        for i, line in enumerate(wrapped(printable(pair.prompt), font_of(14))):
            pen.text((left, top + 50 + PICTURE + 24 + i * _LINE), line, fill=_INK, font=font_of(14))


def wrapped(text: str, font: Font) -> list[str]:
    """Return the text in lines as wide as a pair; a longer text ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= _pair_width():
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _PROMPT_LINES:
        lines = [*lines[: _PROMPT_LINES - 1], f"{lines[_PROMPT_LINES - 1]} ..."]
    return lines


def shortened(text: str, font: Font) -> str:
    """Return the text in one line as wide as a picture; a longer text ends in an ellipsis."""
    if font.getlength(text) <= PICTURE:
        return text
    length = next(n for n in range(len(text), -1, -1) if font.getlength(f"{text[:n]}...") <= PICTURE)
    return f"{text[:length].rstrip(' ,')}..."


def _draw_tile(canvas: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int]) -> None:
    x, y = at
    colour = _GOOD if tile.good else _BAD
    canvas.paste(_to_image(tile.picture), at)
    pen.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), outline=colour, width=_BORDER)
    pen.text((x, y + PICTURE + 4), shortened(tile.verdict, font_of(13)), fill=colour, font=font_of(13))


def _to_image(picture: Tensor) -> Image.Image:
    """Return a picture (3, H, W) in [0, 1] enlarged without smoothing."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.NEAREST)


def printable(text: str) -> str:
    """Return text with control and non-ASCII characters escaped, because attacks find tokens without a glyph."""
    return ascii(text)[1:-1]


def font_of(size: int) -> Font:
    """Return Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)
