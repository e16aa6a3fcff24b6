"""One picture of the same prompts and seeds, without and with an artifact, for a model card."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from robust_encoders.pipeline.status import status
from robust_encoders.utils.encoder_names import refuse_names

if TYPE_CHECKING:
    from PIL.Image import Image

TILE, LINE = 160, 18  # pixels
_PAPER, _INK = "white", "black"


class Attachable(Protocol):
    """An artifact that checks a pipeline and attaches to it within a scope."""

    def check(self, pipe: Any) -> Any:
        """Return the compatibility report of the artifact on a pipeline."""
        ...

    def attached(self, pipe: Any) -> AbstractContextManager[Any]:
        """Attach within the scope."""
        ...


def before_after(pipe: Any, encoder: Attachable, prompts: Sequence[str], *, seed: int = 0, **arguments: Any) -> Image:
    """Draw prompts without and with an artifact, and return both rows as one picture.

    The pipeline is afterwards as it was. To show the picture on the model card, save it as ``before_after.png`` in the
    folder of the saved artifact, and save or push that artifact again.

    Args:
        pipe: Text-to-image pipeline that the artifact fits; the artifact is not attached to it.
        encoder: Artifact to attach.
        prompts: Prompts, one column each.
        seed: Seed of the first column; each further column has the next one.
        arguments: Arguments of the pipeline's call, for example ``num_inference_steps``.

    Raises:
        ValueError: If there are no prompts, or if something is attached to the pipeline.
        IncompatibleError: If the artifact does not fit the pipeline.
        EncoderNameError: If ``encoder`` is a name, not a loaded artifact.
    """
    refuse_names(encoder)
    if not prompts or isinstance(prompts, str):
        raise ValueError(f"expected a list of prompts, found {prompts!r}; pass at least one prompt in a list")
    found = status(pipe)
    if found.attached or found.overlays:
        raise ValueError(
            "expected a pipeline without this package's encoders and overlays, found one attached; detach it first"
        )
    encoder.check(pipe).raise_if_incompatible()
    before = _drawn(pipe, prompts, seed, arguments)
    with encoder.attached(pipe):
        after = _drawn(pipe, prompts, seed, arguments)
    return _strip(prompts, {"without": before, "with": after})


def _drawn(pipe: Any, prompts: Sequence[str], seed: int, arguments: dict[str, Any]) -> list[Image]:
    import torch

    seeds = [torch.Generator().manual_seed(seed + column) for column in range(len(prompts))]
    images: list[Image] = pipe(list(prompts), generator=seeds, **arguments).images
    return images


def _strip(prompts: Sequence[str], rows: dict[str, list[Image]]) -> Image:
    from diffusers.utils import make_image_grid

    tiles = [_tile(image, f"{name}:", prompt) for name, images in rows.items()
             for image, prompt in zip(images, prompts, strict=True)]  # fmt: skip
    grid: Image = make_image_grid(tiles, rows=len(rows), cols=len(prompts))
    return grid


def _tile(image: Image, name: str, prompt: str) -> Image:
    """Return a picture, fitted into a square tile, over its prompt in at most three lines."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont, ImageOps

    tile = Pillow.new("RGB", (TILE + 16, TILE + 3 * LINE + 16), _PAPER)
    small = max(image.size) < TILE  # pixels of a small picture stay sharp
    method = Pillow.Resampling.NEAREST if small else Pillow.Resampling.LANCZOS
    tile.paste(ImageOps.pad(image.convert("RGB"), (TILE, TILE), method, color=_PAPER), (8, 8))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(13)
    lines = [name]
    for word in prompt.split():
        longer = f"{lines[-1]} {word}"
        if font.getlength(longer) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines if len(lines) <= 3 else [*lines[:2], f"{lines[2]} ..."]
    pen.multiline_text((8, TILE + 12), "\n".join(shown), fill=_INK, font=font)
    return tile
