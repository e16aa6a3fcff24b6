from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone, has_bf16

PROMPTS = ["a red circle", "nudity"]


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def noise_for(backbone: Backbone, n: int = 2) -> Tensor:
    return torch.randn((n, *backbone.latent_shape), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sample_draws_what_the_pipeline_draws(
    make_pipe: Callable[..., Any], prediction_type: str, guidance: float
) -> None:
    pipe = make_pipe(prediction_type=prediction_type)
    backbone = Backbone.from_pipeline(pipe)
    noise = noise_for(backbone)
    expected = pipe(
        PROMPTS, latents=noise.clone(), num_inference_steps=4, guidance_scale=guidance, output_type="latent"
    ).images
    cond = backbone.condition(PROMPTS)
    drawn = backbone.sample(cond, noise=noise, steps=4, guidance=guidance)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


def test_sample_keeps_the_whole_trajectory(backbone: Backbone) -> None:
    noise, cond = noise_for(backbone), backbone.condition(PROMPTS)
    kept = backbone.sample(cond, noise=noise, steps=3, guidance=2.0, keep=True)
    assert kept.shape == (4, 2, 4, 8, 8)
    assert torch.equal(kept[0], noise)
    assert torch.equal(kept[-1], backbone.sample(cond, noise=noise, steps=3, guidance=2.0))


def test_encoding_the_token_embeddings_gives_the_conditioning(backbone: Backbone) -> None:
    ids = backbone.tokenize(PROMPTS)
    assert ids.shape == (2, backbone.max_length)
    with torch.no_grad():
        assert torch.equal(backbone.encode(backbone.embed(ids), ids), backbone.condition(PROMPTS))


def test_encode_is_differentiable_in_embeddings_and_weights(backbone: Backbone) -> None:
    ids = backbone.tokenize(PROMPTS)
    embeds = backbone.embed(ids).detach().requires_grad_(True)
    weight = next(iter(backbone.text_encoder.encoder.parameters()))
    by_embeds, by_weight = torch.autograd.grad(backbone.encode(embeds, ids).square().sum(), [embeds, weight])
    assert by_embeds.abs().sum() > 0
    assert by_weight.abs().sum() > 0


def test_encode_leaves_no_hook_behind(backbone: Backbone) -> None:
    ids = backbone.tokenize(PROMPTS)
    hooks = backbone.text_encoder.get_input_embeddings()._forward_hooks
    backbone.encode(torch.zeros(2, ids.shape[1], 16), ids)
    assert not hooks
    with pytest.raises((RuntimeError, IndexError)):
        backbone.encode(torch.zeros(2, ids.shape[1], 5), ids)
    assert not hooks


def test_encode_refuses_ids_of_another_shape(backbone: Backbone) -> None:
    ids = backbone.tokenize(PROMPTS)
    with pytest.raises(ValueError, match=r"expected ids of shape \(1, 24\), found \(2, 24\)"):
        backbone.encode(torch.zeros(1, 24, 16), ids)


def test_guidance_is_linear_in_the_predictions(backbone: Backbone) -> None:
    latents, t = noise_for(backbone), torch.tensor([10, 700])
    cond, null = backbone.condition(PROMPTS), backbone.condition([""])
    with torch.no_grad():
        without = backbone.predict(latents, t, null.expand_as(cond))
        with_prompt = backbone.predict(latents, t, cond)
        guided = backbone.guided(latents, t, cond, null, 3.0)
    torch.testing.assert_close(guided, without + 3 * (with_prompt - without), rtol=1e-4, atol=1e-5)


def test_predictions_are_counted_by_latents(backbone: Backbone) -> None:
    latents, t, cond = noise_for(backbone), torch.tensor([1, 2]), backbone.condition(PROMPTS)
    backbone.predict(latents, t, cond)
    assert backbone.unet_calls == 2
    backbone.guided(latents, t, cond, backbone.condition([""]), 2.0)
    assert backbone.unet_calls == 6
    assert backbone.clone().unet_calls == 0


def test_bf16_only_rounds(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_encoders.training.diffusion.backbone.has_bf16", lambda: True)
    latents, t, cond = noise_for(backbone), torch.tensor([1, 2]), backbone.condition(PROMPTS)
    with torch.no_grad():
        full = backbone.predict(latents, t, cond)
        low = backbone.sharing(precision="bf16").predict(latents, t, cond)
    assert low.dtype == torch.float32
    assert 0 < float((low - full).abs().max()) < 0.1 * float(full.abs().max())


def test_bf16_is_computed_in_float32_where_the_processor_has_none(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robust_encoders.training.diffusion.backbone.has_bf16", lambda: False)
    latents, t, cond = noise_for(backbone), torch.tensor([1, 2]), backbone.condition(PROMPTS)
    asked = backbone.sharing(precision="bf16")
    assert (asked.precision, asked.computes_in) == ("bf16", "fp32")
    with torch.no_grad():
        assert torch.equal(asked.predict(latents, t, cond), backbone.predict(latents, t, cond))


def test_weights_in_bf16_compute_as_they_are(make_pipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_encoders.training.diffusion.backbone.has_bf16", lambda: False)
    pipe = make_pipe()
    pipe.unet.to(torch.bfloat16)
    assert Backbone.from_pipeline(pipe, precision="bf16").computes_in == "bf16"
    pipe.unet.conv_in.float()  # in training, among frozen ones
    mixed = Backbone.from_pipeline(pipe, precision="bf16")
    assert (mixed.dtype, mixed.computes_in) == (torch.float32, "bf16")
    assert mixed.predict(noise_for(mixed), torch.tensor([1, 2]), mixed.condition(PROMPTS)).dtype == torch.float32


@pytest.mark.parametrize(
    ("found", "has"), [({}, False), ({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_what_a_processor_tells_of_bfloat16(found: dict[str, bool], has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert has_bf16.__wrapped__() is has


def test_noising_agrees_with_the_scheduler(make_pipe: Callable[..., Any]) -> None:
    pipe = make_pipe(prediction_type="v_prediction")
    backbone = Backbone.from_pipeline(pipe)
    x0, noise, t = noise_for(backbone), torch.ones(2, 4, 8, 8), torch.tensor([0, 999])
    torch.testing.assert_close(backbone.add_noise(x0, noise, t), pipe.scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(backbone.target(x0, noise, t), pipe.scheduler.get_velocity(x0, noise, t))


def test_noise_models_are_trained_on_the_noise(backbone: Backbone) -> None:
    noise = noise_for(backbone)
    assert backbone.target(torch.zeros_like(noise), noise, torch.tensor([5, 6])) is noise


def test_clone_copies_the_encoder_and_shares_the_unet(backbone: Backbone) -> None:
    copy = backbone.clone()
    assert copy.unet is backbone.unet
    before = backbone.condition(PROMPTS)
    with torch.no_grad():
        for parameter in copy.text_encoder.parameters():
            parameter.add_(1.0)
    assert torch.equal(backbone.condition(PROMPTS), before)
    assert not torch.equal(copy.condition(PROMPTS), before)


def test_frozen_restores_every_flag_even_after_an_error(backbone: Backbone) -> None:
    backbone.unet.train()
    first = next(iter(backbone.unet.parameters())).requires_grad_(False)

    def interrupted() -> None:
        with backbone.frozen():
            assert not backbone.unet.training
            assert not any(p.requires_grad for p in backbone.unet.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert all(module.training for module in backbone.unet.modules())
    assert [p.requires_grad for p in backbone.unet.parameters()].count(False) == 1
    assert not first.requires_grad
    assert all(p.requires_grad for p in backbone.text_encoder.parameters())


def test_gram_measures_what_cross_attention_sees(backbone: Backbone) -> None:
    difference = torch.randn(16, generator=torch.Generator().manual_seed(0)).double()
    seen = 0.0
    layers = [m for name, m in backbone.unet.named_modules() if name.endswith("attn2")]
    for layer in layers:
        for projection in (layer.to_k, layer.to_v):
            seen += float((projection.weight.detach().double() @ difference).square().sum())
    assert len(layers) > 1
    gram = backbone.text_gram()
    assert gram.shape == (16, 16)
    assert float(difference @ gram @ difference) == pytest.approx(seen, rel=1e-9)


def test_gram_refuses_a_unet_without_text(backbone: Backbone, textless_unet: Any) -> None:
    backbone.unet = textless_unet
    with pytest.raises(ValueError, match="found none"):
        backbone.text_gram()


def test_rectangular_latents_are_read(backbone: Backbone) -> None:
    backbone.unet.register_to_config(sample_size=(8, 16))
    assert backbone.latent_shape == (4, 8, 16)


def test_other_prediction_types_are_refused(make_pipe: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="found 'sample'"):
        Backbone.from_pipeline(make_pipe(prediction_type="sample"))


def test_an_encoder_of_another_width_is_refused(make_pipe: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"width 32 .* found 16"):
        Backbone.from_pipeline(make_pipe(unet_width=32))
