"""An encoder for the second slot beside one for the first: attach, draw, detach, save, load, and what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from several_encoders import draw, encoder_for, flux, projected, refiner, sd3, sdxl
from transformers import CLIPTextModelWithProjection

from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    RobustEncoder,
    StaleAttachmentError,
)
from robust_encoders.clip.state_dict import PROJECTION
from robust_encoders.pipeline.attach import attachment_of, attachments_of


@pytest.fixture
def pipe(tiny_pipe: Any) -> Any:
    """A small SDXL."""
    return sdxl(tiny_pipe)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Consent to a partial attachment warns, as other tests check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompatibilityWarning)
        yield


def both(pipe: Any) -> tuple[RobustEncoder, RobustEncoder]:
    return encoder_for(pipe, "text_encoder"), encoder_for(pipe)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_encoders_stand_beside_each_other_and_leave_in_any_order(pipe: Any, first_out: int) -> None:
    encoders, parts = both(pipe), (pipe.text_encoder, pipe.text_encoder_2)
    pictures = [draw(pipe)]
    for encoder in encoders:
        encoder.attach(pipe, allow_partial=True)
        pictures.append(draw(pipe))
    assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert [record.component for record in attachments_of(pipe)] == ["text_encoder", "text_encoder_2"]
    encoders[first_out].detach(pipe)
    alone = sdxl_with(pipe, encoders[1 - first_out])
    assert torch.equal(draw(pipe), alone)
    encoders[1 - first_out].detach(pipe)
    assert (pipe.text_encoder, pipe.text_encoder_2) == parts
    assert torch.equal(draw(pipe), pictures[0])
    assert attachments_of(pipe) == ()


def sdxl_with(pipe: Any, encoder: RobustEncoder) -> torch.Tensor:
    """Return the picture of a pipeline that was built with one robust encoder."""
    records = {one.component: one.original for one in attachments_of(pipe)}
    parts = {**pipe.components, **records, encoder.manifest.component: encoder.text_encoder()}
    return draw(type(pipe)(**parts, add_watermarker=False))


def test_the_second_closes_what_the_first_left_open(pipe: Any) -> None:
    first, second = both(pipe)
    first.attach(pipe, allow_partial=True)
    report = second.check(pipe)
    assert (report.ok, report.fit, report.verdict) == (True, "whole", "fits slot 2 of 2")
    assert "slot 1, text_encoder (CLIPTextModel): closed: its robust encoder erases the same concept" in str(report)
    second.attach(pipe)  # needs no consent
    assert not any("other text encoders" in way for way in RobustEncoder.status(pipe).bypasses)
    other = encoder_for(pipe, concept="square")
    assert other.check(pipe).slots.open == ("text_encoder",)
    other.attach(pipe, allow_partial=True, replace=True)
    assert "other text encoders (text_encoder) erase another concept: the concept is reachable" in str(
        RobustEncoder.status(pipe).bypasses
    )


def test_the_status_tells_both(pipe: Any) -> None:
    first, second = both(pipe)
    second.attach(pipe, allow_partial=True)
    alone = RobustEncoder.status(pipe)
    assert (alone.component, alone.tracked, alone.intact, alone.further) == ("text_encoder_2", True, True, ())
    assert "other text encoders (text_encoder) are unchanged" in alone.bypasses[0]
    first.attach(pipe)
    found = RobustEncoder.status(pipe)
    (more,) = found.further
    assert (found.component, more.component) == ("text_encoder", "text_encoder_2")
    assert (found.intact, more.intact, more.tracked) == (True, True, True)
    lines = [line for line in str(found).splitlines() if line.startswith("robust encoder:")]
    assert ["pipe.text_encoder," in lines[0], "pipe.text_encoder_2," in lines[1]] == [True, True]
    next(iter(pipe.text_encoder_2.parameters())).data += 1
    changed = RobustEncoder.status(pipe)
    assert (changed.intact, changed.further[0].intact) == (True, False)


def test_scopes_of_both_slots_end_in_any_order(pipe: Any) -> None:
    first, second = both(pipe)
    before = draw(pipe)
    with first.attached(pipe, allow_partial=True), second.attached(pipe):
        assert len(attachments_of(pipe)) == 2
    assert attachments_of(pipe) == ()
    assert torch.equal(draw(pipe), before)
    outer = second.attached(pipe, allow_partial=True)
    outer.__enter__()
    with first.attached(pipe):
        outer.__exit__(None, None, None)
    assert torch.equal(draw(pipe), before)


def test_an_encoder_is_attached_once_to_its_slot(pipe: Any) -> None:
    _, second = both(pipe)
    second.attach(pipe, allow_partial=True)
    record = attachment_of(pipe, "text_encoder_2")
    second.attach(pipe, allow_partial=True)
    assert attachment_of(pipe, "text_encoder_2") is record
    other = encoder_for(pipe, seed=2)
    with pytest.raises(
        AlreadyAttachedError, match=r"expected no robust encoder in pipe\.text_encoder_2, found 'circle'"
    ):
        other.attach(pipe, allow_partial=True)
    with pytest.raises(StaleAttachmentError, match=r"expected 'circle' .* in pipe\.text_encoder_2, found 'circle'"):
        other.detach(pipe)
    other.attach(pipe, allow_partial=True, replace=True)
    other.detach(pipe)
    assert attachments_of(pipe) == ()


def test_the_second_encoder_does_not_fit_a_pipeline_with_one(pipe: Any, tiny_pipe: Any) -> None:
    with pytest.raises(
        IncompatibleError, match="expected a diffusers pipeline with a text_encoder_2, found a Stable"
    ) as e:
        encoder_for(pipe).attach(tiny_pipe, allow_partial=True)
    assert "this artifact is the second text encoder of SDXL: load such a pipeline" in str(e.value)
    assert e.value.report.fit == "none"


def test_swapped_slots_are_refused(pipe: Any) -> None:
    first, second = both(pipe)
    swapped = sdxl_parts(pipe, text_encoder=pipe.text_encoder_2, text_encoder_2=pipe.text_encoder)
    for encoder, found in ((first, "CLIPTextModelWithProjection"), (second, "CLIPTextModel")):
        report = encoder.check(swapped, allow_partial=True)
        assert report.fit == "none"
        assert report["class"].found == f"transformers.{found}"
    renamed = replace(second.manifest, component="text_encoder")
    with pytest.raises(IntegrityError, match=r"text_projection\.weight: expected no such tensor"):
        RobustEncoder(renamed, second.tensors, second.config)
    with pytest.raises(IntegrityError, match=r"text_projection\.weight: expected shape \(16, 16\), found none"):
        RobustEncoder(replace(first.manifest, component="text_encoder_2"), first.tensors, first.config)
    with pytest.raises(ManifestError, match="or 'text_encoder_2', found form 'weights' of 'text_encoder_3'"):
        RobustEncoder(replace(first.manifest, component="text_encoder_3"), first.tensors, first.config)


def sdxl_parts(pipe: Any, **parts: Any) -> Any:
    return type(pipe)(**{**pipe.components, **parts}, add_watermarker=False)


def test_another_width_of_the_pooled_vector_is_refused(pipe: Any, tiny_pipe: Any) -> None:
    other = sdxl_parts(pipe, text_encoder_2=projected(tiny_pipe, projection_dim=12))
    report = encoder_for(pipe).check(other, allow_partial=True)
    assert {check.name for check in report.errors} == {"projection"}


def test_the_refiner_takes_the_second_encoder_alone(tiny_pipe: Any) -> None:
    pipe = refiner(tiny_pipe)
    encoder = encoder_for(pipe)
    report = encoder.check(pipe)
    assert (report.ok, report.verdict) == (True, "fits slot 2 of 2")
    assert "slot 1, text_encoder (no encoder): empty" in str(report)
    start = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = draw(pipe, image=start, strength=1.0)
    encoder.attach(pipe)
    assert not torch.equal(draw(pipe, image=start, strength=1.0), before)
    encoder.detach(pipe)
    assert torch.equal(draw(pipe, image=start, strength=1.0), before)


def test_sd_3_takes_an_encoder_with_projection_in_its_second_slot_and_flux_none(tiny_pipe: Any) -> None:
    pipe = sd3(tiny_pipe, with_t5=False)
    encoder = encoder_for_sd3(pipe)
    report = encoder.check(pipe, allow_partial=True)
    assert (report.ok, report.verdict) == (True, "fits slot 2 of 3: partial")
    refused = encoder.check(flux(tiny_pipe), allow_partial=True)
    assert refused.fit == "none"
    assert refused["class"].found == "transformers.T5EncoderModel"
    assert "no CLIP encoder can take the place of a T5" in refused["class"].remedy


def encoder_for_sd3(pipe: Any) -> RobustEncoder:
    pipe.unet = pipe.transformer  # the fingerprint is taken of a UNet
    encoder: RobustEncoder = encoder_for(pipe)
    del pipe.unet
    return encoder


def test_an_artifact_of_the_second_slot_is_saved_and_loaded(pipe: Any, tmp_path: Path) -> None:
    encoder = encoder_for(pipe)
    encoder.save_pretrained(tmp_path / "second")
    manifest = json.loads((tmp_path / "second" / "robust_encoder.json").read_text())
    assert (manifest["form"], manifest["component"]) == ("weights", "text_encoder_2")
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["architectures"] == ["CLIPTextModelWithProjection"]
    with safe_open(tmp_path / "second" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert PROJECTION in names
    assert all(name.startswith("text_") for name in names)
    loaded = RobustEncoder.from_pretrained(tmp_path / "second")
    assert loaded.content_sha256 == encoder.content_sha256
    loaded.attach(pipe, allow_partial=True)
    kind: Any = CLIPTextModelWithProjection
    plain = kind.from_pretrained(tmp_path / "second")
    assert torch.equal(draw(pipe), draw(sdxl_parts(pipe, text_encoder_2=plain)))
    card = (tmp_path / "second" / "README.md").read_text()
    assert "StableDiffusionXLPipeline" in card
    assert "encoder.attach(pipe, allow_partial=True)" in card
    assert "The second of two text encoders" in card
    assert "`CLIPTextModelWithProjection`" in card


def test_a_pipeline_with_both_is_saved_whole(pipe: Any, tmp_path: Path) -> None:
    for encoder in both(pipe):
        encoder.attach(pipe, allow_partial=True)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = type(pipe).from_pretrained(tmp_path / "pipe")
    assert torch.equal(draw(loaded), draw(pipe))
    found = RobustEncoder.status(loaded)
    assert (found.component, found.tracked) == ("text_encoder", False)
    assert [one.component for one in found.further] == ["text_encoder_2"]


@pytest.mark.parametrize("mode", ["model", "half"])
def test_offloading_and_precision_are_taken_over(pipe: Any, mode: str) -> None:
    if mode == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        pipe.to(torch.bfloat16)
    before, encoders = draw(pipe), both(pipe)
    for encoder in encoders:
        encoder.attach(pipe, allow_partial=True)
    assert not torch.equal(draw(pipe), before)
    for encoder in encoders:
        encoder.detach(pipe)
    assert torch.equal(draw(pipe), before)
