"""Transport ``official`` draws what SPM's release draws, which is written down here once more, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from overlays import drawn, make_adapter
from torch import Tensor, nn

from robust_encoders import Overlay
from robust_encoders.overlays.adapters import UNET_PREFIX, unet_layers
from robust_encoders.overlays.gate_memory import Row, is_guided
from robust_encoders.pipeline.composition import composition_of

# transformers 4 cannot mask attention in float64.
EXACT = torch.float32 if transformers.__version__.startswith("4.") else torch.float64
LONG = ("red circle", "a star", "church")


def encoded(pipe: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    ids = pipe.tokenizer(
        list(texts), padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0], ids


def multiplier(pipe: Any, prompt: str, targets: Sequence[str]) -> float:
    """The release's matching score ``clipcos_tokenuni`` of one prompt and one SPM."""
    special = {*pipe.tokenizer.all_special_ids}
    (embeds, ids), (erased_embeds, erased_ids) = encoded(pipe, [prompt]), encoded(pipe, targets)
    cosine = torch.cosine_similarity(embeds.flatten(1), erased_embeds.flatten(1), dim=-1)
    words = {*ids[0].tolist()} - special
    shares = [len(words & (own := {*row.tolist()} - special)) / len(own) for row in erased_ids]
    return float(torch.maximum(cosine, torch.tensor(shares, dtype=torch.float64)).max())


@contextmanager
def released(pipe: Any, overlays: Sequence[Overlay], prompt: str) -> Iterator[None]:
    """The release for one prompt: one sum of scaled files, in the forwards of the UNet's layers, for every row."""
    summed: dict[str, Tensor] = {}
    for overlay in overlays:
        strength = multiplier(pipe, prompt, overlay.config["prompts"])
        for key, value in overlay.tensors.items():
            summed[key] = summed.get(key, 0.0) + value.double() * strength
    changed: list[nn.Module] = []
    dtype = pipe.unet.dtype
    for stem, path in unet_layers(pipe.unet).items():
        layer = pipe.unet.get_submodule(path)
        down, up = (summed[f"{UNET_PREFIX}{stem}.lora_{part}.weight"].to(dtype) for part in ("down", "up"))
        apply = nn.functional.conv2d if down.ndim == 4 else nn.functional.linear

        def forward(x: Tensor, own: Any = layer.forward, apply: Any = apply, down: Any = down, up: Any = up) -> Tensor:
            total: Tensor = own(x) + apply(apply(x, down), up)
            return total

        layer.forward = forward
        changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def by_the_release(pipe: Any, overlays: Sequence[Overlay], prompt: str, **options: Any) -> Tensor:
    with released(pipe, overlays, prompt):
        return drawn(pipe, prompt, **options)


def by_official(pipe: Any, overlays: Sequence[Overlay], prompt: Any, **options: Any) -> Tensor:
    for overlay in overlays:
        overlay.attach(pipe, transport="official")
    try:
        return drawn(pipe, prompt, **options)
    finally:
        for overlay in overlays:
            overlay.detach(pipe)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("prompt", ["a red circle on a white background", "church"])
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 7.5},
        {"guidance_scale": 4.0, "negative_prompt": ["a star on a white background"]},
        {"guidance_scale": 4.0, "num_images_per_prompt": 2},
        {"guidance_scale": 1.0},
    ],
    ids=["guided", "negative", "two pictures", "unguided"],
)
def test_pictures_equal_those_of_the_release(tiny_pipe: Any, prompt: str, options: Any, count: int) -> None:
    tiny_pipe.to(EXACT)  # sums in another order differ by rounding, which these large adapters magnify
    overlays = [make_adapter(tiny_pipe, name, seed=i) for i, name in enumerate(LONG[:count])]
    expected = by_the_release(tiny_pipe, overlays, prompt, **options)
    found = by_official(tiny_pipe, overlays, prompt, **options)
    assert not torch.allclose(found, drawn(tiny_pipe, prompt, **options), atol=1e-3), "the adapters change something"
    torch.testing.assert_close(found, expected, atol=1e-9 if EXACT is torch.float64 else 5e-4, rtol=0)


def test_every_prompt_of_a_batch_is_drawn_as_the_release_draws_it_alone(tiny_pipe: Any) -> None:
    overlay, prompts = make_adapter(tiny_pipe, "a star"), ["a red circle", "a star"]
    found = by_official(tiny_pipe, [overlay], prompts, negative_prompt=["church", ""])
    for i, (prompt, negative) in enumerate(zip(prompts, ("church", ""), strict=True)):
        with released(tiny_pipe, [overlay], prompt):
            pictures = tiny_pipe(
                prompt,
                negative_prompt=negative,
                num_inference_steps=2,
                output_type="pt",
                generator=torch.Generator().manual_seed(i),
            ).images
        torch.testing.assert_close(found[i : i + 1], pictures, atol=1e-5, rtol=0)


def test_embeddings_of_the_pipeline_itself_are_drawn_like_their_prompts(tiny_pipe: Any) -> None:
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe, transport="official")
    prompt, negative = tiny_pipe.encode_prompt("a red circle", "cpu", 1, True, negative_prompt="church")
    options = {"num_inference_steps": 2, "output_type": "pt"}
    given = tiny_pipe(
        prompt_embeds=prompt, negative_prompt_embeds=negative, generator=torch.Generator().manual_seed(0), **options
    ).images
    usual = drawn(tiny_pipe, "a red circle", negative_prompt=["church"])
    torch.testing.assert_close(given, usual, atol=1e-5, rtol=0)


def test_a_closed_gate_leaves_a_guided_picture_bit_for_bit(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt's gate is 0, and that of its negative prompt is not."""
    plain = drawn(tiny_pipe, "church", negative_prompt=["a star"])
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe, transport="official")
    carrier = composition_of(tiny_pipe).carrier
    assert carrier is not None
    star = {*tiny_pipe.tokenizer("a star").input_ids}

    def closed(conditionings: Tensor, ids: Tensor, *_: Any) -> Tensor:
        return torch.tensor([[float({*row.tolist()} == star)] for row in ids])

    monkeypatch.setattr("robust_encoders.overlays.facilitated_transport.gates", closed)
    assert torch.equal(drawn(tiny_pipe, "church", negative_prompt=["a star"]), plain)
    assert not torch.equal(drawn(tiny_pipe, "a star", negative_prompt=["church"]), plain)


def row(*calls: int, place: int = 0, order: tuple[int, ...] = (0,), empty: bool = False) -> Row:
    return Row(torch.ones(1), calls, place, order, empty)


def batch(*calls: int, n: int = 2) -> list[Row]:
    """The rows of a call of n different texts."""
    return [row(*calls, place=place, order=tuple(range(n))) for place in range(n)]


@pytest.mark.parametrize(
    ("rows", "guided"),
    [
        ([row(2), row(1)], True),
        ([row(1), row(2)], False),  # two prompts, encoded one after the other, without guidance
        (batch(1), False),  # two prompts of one call
        (batch(1, 2), False),  # and again
        (batch(1, 2, n=4), False),
        ([batch(1, 2)[0]] * 2 + [batch(1, 2)[1]] * 2, False),  # two pictures of each
        ([*reversed(batch(1, 2)), *batch(1, 2)], True),  # each of two texts is the other one's negative prompt
        ([*batch(1, 2), *reversed(batch(1, 2))], True),
        ([*batch(1, 2), *batch(1, 2)], True),  # each beside itself
        ([*batch(1, 3), *batch(2, 4)], False),  # four prompts of two calls, and again
        ([*batch(2, 4), *batch(1, 3)], True),
        ([row(1, empty=True), row(2)], True),  # the empty prompt, encoded once for many prompts
        ([row(2), None], True),  # embeddings of elsewhere beside a negative prompt
        ([None, row(1)], False),
        ([None, None], False),
        ([row(3), row(3), row(1), row(2)], True),
        ([row(3), row(1), row(1), row(2)], False),
        ([row(3), row(2), row(1)], False),  # three rows, as instruct-pix2pix has
        ([row(3)], False),
        ([], False),
    ],
)
def test_guidance_is_told_by_the_order_of_the_calls(rows: list[Row | None], guided: bool) -> None:
    assert is_guided(rows) is guided
