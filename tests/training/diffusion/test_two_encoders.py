"""SDXL behind the interface of a backbone: the same numbers as the pipeline's, whichever text encoder may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from several_encoders import PROJECTED, SECOND_WIDTH, projected, sdxl
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.two_encoders import TwoEncoderBackbone, backbone_of
from robust_encoders.training.trajectories.agreement import require_agreement
from robust_encoders.training.trajectories.bank import bank_key
from robust_encoders.training.trajectories.config import BankConfig

PROMPTS = ("a red circle", "star")
SLOTS = ("text_encoder", "text_encoder_2")


def of(pipe: Any, component: str = "text_encoder_2") -> TwoEncoderBackbone:
    backbone = backbone_of(pipe, component)
    assert isinstance(backbone, TwoEncoderBackbone)
    return backbone


def encoded(pipe: Any, **options: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = pipe.encode_prompt(list(PROMPTS), device=torch.device("cpu"), **options)
    return found


@pytest.mark.parametrize("component", SLOTS)
def test_the_conditioning_is_that_of_the_pipeline(tiny_pipe: Any, component: str) -> None:
    pipe = sdxl(tiny_pipe)
    backbone = of(pipe, component)
    hidden, _, pooled, _ = encoded(pipe)
    cond = backbone.condition(PROMPTS)
    assert cond.shape == (2, 24 + 1, 16 + SECOND_WIDTH)
    for ours, theirs in zip(backbone.split(cond), (hidden, pooled), strict=True):
        assert torch.equal(ours, theirs)
    assert not cond[:, -1, PROJECTED:].any()
    ids = backbone.tokenize(PROMPTS)
    assert torch.equal(backbone.encode(backbone.embed(ids), ids, backbone.given(PROMPTS)), cond)


@pytest.mark.parametrize("zeros", [True, False])
def test_without_a_negative_prompt_it_guides_away_from_what_the_pipeline_takes(tiny_pipe: Any, zeros: bool) -> None:
    pipe = sdxl(tiny_pipe, force_zeros_for_empty_prompt=zeros)
    backbone = of(pipe)
    _, null, _, pooled = encoded(pipe, do_classifier_free_guidance=True)
    ours = backbone.split(backbone.null().expand(2, -1, -1))
    assert torch.allclose(ours[0], null, atol=1e-5)
    assert torch.allclose(ours[1], pooled, atol=1e-5)
    assert bool(null.any()) is not zeros


@pytest.mark.parametrize("component", SLOTS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_latents_are_those_of_the_pipeline(tiny_pipe: Any, component: str, guidance: float) -> None:
    pipe = sdxl(tiny_pipe)
    backbone = of(pipe, component)
    assert backbone.drawn.size == (16, 16)  # 8 latents, and an autoencoder that halves a picture
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = pipe(
        list(PROMPTS), latents=noise.clone(), num_inference_steps=3, guidance_scale=guidance, output_type="latent"
    ).images
    cond = backbone.condition(PROMPTS)
    ours = backbone.sample(cond, noise=noise, steps=3, guidance=guidance)
    assert torch.allclose(ours, theirs, atol=1e-5)
    larger = TwoEncoderBackbone(
        backbone.slots, pipe.unet, pipe.scheduler, component=component, drawn=backbone.drawn._replace(size=(64, 64))
    )
    assert not torch.allclose(larger.sample(cond, noise=noise, steps=3, guidance=guidance), theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trajectories_agree_with_a_pipeline_of_the_same_parts(tiny_pipe: Any, dtype: torch.dtype) -> None:
    pipe = sdxl(tiny_pipe)
    pipe.unet.to(dtype)
    backbone = of(pipe)
    require_agreement(backbone, "a red circle", 4.0)
    assert backbone.agrees


@pytest.mark.parametrize("component", SLOTS)
def test_only_the_own_part_depends_on_the_embeddings(tiny_pipe: Any, component: str) -> None:
    backbone = of(sdxl(tiny_pipe), component)
    ids, given = backbone.tokenize(PROMPTS), backbone.given(PROMPTS)
    embeds = backbone.embed(ids).detach()
    before = backbone.encode(embeds, ids, given)
    changed = (backbone.encode(embeds + 1, ids, given) != before).any(0)  # (L + 1, D)
    own = slice(0, 16) if component == "text_encoder" else slice(16, None)
    others = slice(16, None) if component == "text_encoder" else slice(0, 16)
    assert changed[:-1, own].any()
    assert not changed[:-1, others].any()
    assert changed[-1].any() == (component == "text_encoder_2")
    with pytest.raises(ValueError, match="the other text encoder gives, found none"):
        backbone.encode(embeds, ids)


@pytest.mark.parametrize("component", SLOTS)
def test_parameters_that_are_read_are_those_with_a_gradient(tiny_pipe: Any, component: str) -> None:
    student = of(sdxl(tiny_pipe), component).clone()
    assert isinstance(student, TwoEncoderBackbone)
    ids = student.tokenize(PROMPTS)
    cond = student.encode(student.embed(ids), ids, student.given(PROMPTS))
    loss = student.predict(torch.ones(2, 4, 8, 8), torch.tensor([10, 500]), cond).square().sum()
    named = {name: one for name, one in student.text_encoder.named_parameters() if "embedding" not in name}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    with_gradient = {name for name, one in zip(named, found, strict=True) if one is not None and bool(one.any())}
    read = {name for name in named if student.reads(name)}
    # The keys of attention have a bias that cancels, up to rounding.
    assert {name for name in read ^ with_gradient if not name.endswith("k_proj.bias")} == set()
    assert ("text_projection.weight" in read) == (component == "text_encoder_2")


def test_both_slots_share_a_bank_and_another_encoder_beside_has_its_own(tiny_pipe: Any) -> None:
    pipe = sdxl(tiny_pipe)
    first, second = (bank_key(of(pipe, component), BankConfig().for_retain()) for component in SLOTS)
    assert first == second
    next(iter(pipe.text_encoder.parameters())).data += 1
    assert bank_key(of(pipe), BankConfig().for_retain()) != second
    assert bank_key(of(sdxl(tiny_pipe, force_zeros_for_empty_prompt=False)), BankConfig().for_retain()) != second


def test_all_text_encoders_are_frozen_and_given_back(tiny_pipe: Any) -> None:
    pipe = sdxl(tiny_pipe)
    pipe.text_encoder.train()
    backbone = of(pipe)
    with backbone.frozen():
        parts = (pipe.text_encoder, pipe.text_encoder_2, pipe.unet)
        assert not any(part.training or any(p.requires_grad for p in part.parameters()) for part in parts)
    assert pipe.text_encoder.training
    assert all(p.requires_grad for p in pipe.text_encoder.parameters())


def test_a_clone_shares_all_but_the_encoder_that_changes(tiny_pipe: Any) -> None:
    pipe = sdxl(tiny_pipe)
    for component in SLOTS:
        clone = of(pipe, component).clone()
        assert clone.component == component
        assert clone.text_encoder is not getattr(pipe, component)
        assert (clone.unet, clone.beside[0]) == (pipe.unet, getattr(pipe, SLOTS[component == SLOTS[0]]))
        assert torch.equal(clone.condition(PROMPTS), of(pipe).condition(PROMPTS))


def test_encoders_of_other_widths_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="found widths 16 and 16 and a pooled vector of 20"):
        of(sdxl(tiny_pipe, text_encoder_2=projected(tiny_pipe, 16)))
    with pytest.raises(ValueError, match="a pooled vector of 12"):
        of(sdxl(tiny_pipe, text_encoder_2=projected(tiny_pipe, projection_dim=12)))


def test_a_pipeline_with_one_text_encoder_has_no_second_slot(tiny_pipe: Any) -> None:
    backbone = backbone_of(tiny_pipe)
    assert type(backbone) is Backbone
    assert backbone.beside == ()
    assert backbone.given(PROMPTS) is None
    assert torch.equal(backbone.null(), backbone.condition([""]))
    with pytest.raises(ValueError, match="with a text_encoder_2, as SDXL has, found a StableDiffusionPipeline"):
        backbone_of(tiny_pipe, "text_encoder_2")
