"""Recording attention, and the mask that is made from it."""

from __future__ import annotations

from typing import Any

import full_size
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from robust_encoders.overlays.eraser import cross_attentions
from robust_encoders.training.diffusion.attention_maps import MaskConfig, attention_maps, concept_mask, grid_of, resized
from robust_encoders.training.diffusion.backbone import Backbone

T = torch.tensor([10, 700])
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
PROMPTS = ("a red circle", "a disc on white")


def tokens_of(*positions: tuple[int, ...]) -> torch.Tensor:
    mask = torch.zeros(len(positions), 24, dtype=torch.bool)
    for row, places in zip(mask, positions, strict=True):
        row[list(places)] = True
    return mask


def by_hand(unet: Any, cond: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Softmax of scaled products, head by head and prompt by prompt, from the inputs that hooks see."""
    found: dict[str, torch.Tensor] = {}

    def note(path: str) -> Any:
        def hook(layer: Any, args: Any, kwargs: Any, output: Any) -> None:
            query, key = layer.to_q(args[0]), layer.to_k(cond)
            size = query.shape[2] // layer.heads
            rows = []
            for b in range(len(cond)):
                heads = []
                for h in range(layer.heads):
                    part = slice(h * size, (h + 1) * size)
                    logits = query[b, :, part] @ key[b, :, part].T / size**0.5
                    heads.append(logits.softmax(1)[:, tokens[b]].mean(1))
                rows.append(torch.stack(heads).mean(0))
            found[path] = torch.stack(rows)

        return hook

    handles = [
        unet.get_submodule(path).register_forward_hook(note(path), with_kwargs=True) for path in cross_attentions(unet)
    ]
    try:
        unet(LATENTS, T, encoder_hidden_states=cond)
    finally:
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_maps_are_the_mean_probabilities_and_predictions_stay_bit_for_bit(tiny_pipe: Any, processor: Any) -> None:
    tiny_pipe.unet.set_attn_processor(processor())
    backbone = Backbone.from_pipeline(tiny_pipe)
    tokens = tokens_of((3,), (2, 4))
    with torch.no_grad():
        cond = backbone.condition(PROMPTS)
        before = backbone.predict(LATENTS, T, cond)
        with attention_maps(backbone.unet, tokens) as maps:
            during = backbone.predict(LATENTS, T, cond)
        wanted = by_hand(backbone.unet, cond, tokens)
    assert torch.equal(before, during)
    assert set(maps) == set(cross_attentions(backbone.unet)) == set(wanted)
    for path, found in maps.items():
        assert torch.allclose(found, wanted[path], atol=1e-6)


def test_every_layer_gets_its_own_processor_back_after_an_error_too(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet
    own = dict(unet.attn_processors)

    def stopped() -> None:
        with attention_maps(unet, tokens_of((1,))):
            assert any(unet.attn_processors[name] is not one for name, one in own.items())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert all(unet.attn_processors[name] is one for name, one in own.items())


def test_tokens_must_be_chosen_for_every_prompt(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match="found a prompt without"), attention_maps(backbone.unet, tokens_of((1,), ())):
        pass
    with (
        torch.no_grad(),
        attention_maps(backbone.unet, tokens_of((1,))),
        pytest.raises(ValueError, match="for every prompt of the UNet call"),
    ):
        backbone.predict(LATENTS, T, backbone.condition(PROMPTS))


def test_grids_are_halvings_rounded_up() -> None:
    assert [grid_of(n, (64, 64)) for n in (4096, 1024, 256, 64)] == [(64, 64), (32, 32), (16, 16), (8, 8)]
    assert grid_of(6 * 4, (11, 7)) == (6, 4)
    with pytest.raises(ValueError, match="found 5 locations"):
        grid_of(5, (8, 8))


def test_the_mask_is_the_papers() -> None:
    g = torch.Generator().manual_seed(0)
    maps = {"a": torch.rand(2, 1024, generator=g), "b": torch.rand(2, 256, generator=g) ** 4}
    maps["c"] = torch.rand(2, 256, generator=g) ** 4
    found = concept_mask(maps, (64, 64), MaskConfig())
    for b in range(2):
        mean = (maps["b"][b] + maps["c"][b]) / 2
        scaled = (mean - min(mean)) / (max(mean) - min(mean))
        wanted = torch.tensor([1.0 if value >= 0.1 else 0.0 for value in scaled]).reshape(16, 16)
        assert torch.equal(found[b], wanted)
    assert 0 < float(found.mean()) < 1
    wide = resized(found, 1024, (64, 64)).reshape(2, 32, 32)
    assert torch.equal(wide, found.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(resized(found, 64, (64, 64)).reshape(2, 8, 8), found[:, ::2, ::2])


def test_a_map_without_contrast_has_an_empty_mask_and_an_unknown_resolution_is_refused() -> None:
    maps = {"a": torch.full((1, 64), 0.5)}
    assert not concept_mask(maps, (8, 8), MaskConfig()).any()
    with pytest.raises(ValueError, match=r"expected a resolution in \[8\]"):
        concept_mask(maps, (8, 8), MaskConfig(resolution=16))


@pytest.mark.parametrize(("size", "height"), [("sd1", 16), ("sd2", 24)])
def test_the_default_resolution_is_16_in_stable_diffusion_at_512_pixels(size: str, height: int) -> None:
    side = full_size.SIZES[size].unet["sample_size"]
    maps = {str(d): torch.rand(1, (side // d) ** 2) for d in (1, 2, 4, 8)}
    assert concept_mask(maps, (side, side), MaskConfig()).shape == (1, height, height)
