"""Pipelines with several text encoders: the report says which slot fits, that it is partial, and what stays open."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import save_artifact
from overlays import make_projection
from several_encoders import flux, refiner, sd3, sdxl

from robust_encoders import CompatReport, RobustEncoder
from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.cli.main import main

MakeEncoder = Callable[..., RobustEncoder]


def failed(report: CompatReport) -> dict[str, str]:
    return {check.name: check.severity for check in report.checks if not check.ok}


def of_family(encoder: RobustEncoder, family: str) -> RobustEncoder:
    """Return an encoder that says it was made for a base of another family."""
    manifest = replace(encoder.manifest, base=replace(encoder.manifest.base, family=family, unet=None))
    return RobustEncoder(manifest, encoder.tensors, encoder.config)


def test_one_text_encoder_is_one_slot(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    report = tiny_encoder.check(tiny_pipe)
    assert (report.fit, report.verdict) == ("whole", "fits")
    assert report.slots is not None
    assert (report.slots.names, report.slots.number, report.slots.open) == (("text_encoder",), 1, ())
    assert report.slots.told() == ()


def test_sdxl_is_partial_whatever_is_accepted_and_the_open_slot_is_named(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    pipe = sdxl(tiny_pipe)
    for accepted in (False, True):
        report = tiny_encoder.check(pipe, allow_partial=accepted)
        assert (report.ok, report.fit, report.verdict) == (accepted, "partial", "fits slot 1 of 2: partial")
        assert report.slots is not None
        assert report.slots.open == ("text_encoder_2",)
        assert failed(report)["other text encoders"] == ("warning" if accepted else "error")
        lines = str(report).splitlines()
        assert lines[0].startswith("The encoder fits slot 1 of 2: partial. ")
        assert lines[1] == "  slot 1, text_encoder (CLIPTextModel): the slot of this artifact"
        assert "  slot 2, text_encoder_2 (CLIPTextModelWithProjection): open: every prompt" in lines[2]
    told = tiny_encoder.check(pipe).explain()
    assert told.startswith("the encoder fits slot 1 of 2: partial, and is attached only with consent: ")
    assert "slot 2, text_encoder_2" in told


def test_the_refiner_has_no_room_for_the_first_encoder(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    report = tiny_encoder.check(refiner(tiny_pipe), allow_partial=True)
    assert (report.fit, report.verdict) == ("none", "does not fit")
    assert {"width", "tokenizer"} <= {check.name for check in report.errors}
    width = report["width"]
    assert (width.expected, width.found) == ("0 (cross_attention_dim 24 of the UNet, less text_encoder_2 24)", "16")
    assert "as in the refiner of SDXL; leave this slot empty" in width.remedy


def test_an_sdxl_without_its_first_encoder_has_room_for_it(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    report = tiny_encoder.check(sdxl(tiny_pipe, text_encoder=None), allow_partial=True)
    assert (report.ok, report.verdict) == (True, "fits slot 1 of 2: partial")
    assert report["width"].ok
    assert report.slots is not None
    assert report.slots.kinds["text_encoder"] == ""
    without = tiny_encoder.check(sdxl(tiny_pipe, text_encoder_2=None))
    assert (without.ok, without.verdict) == (True, "fits slot 1 of 2")
    assert "slot 2, text_encoder_2 (no encoder): empty, so that no prompt passes" in str(without)


@pytest.mark.parametrize("with_t5", [True, False])
def test_sd_3_refuses_an_encoder_without_projection_and_says_why(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, with_t5: bool
) -> None:
    report = tiny_encoder.check(sd3(tiny_pipe, with_t5=with_t5), allow_partial=True)
    assert report.fit == "none"
    assert {check.name for check in report.errors} == {"class"}
    assert "a pooled vector behind a projection, which this artifact does not have" in report["class"].remedy
    assert report.slots is not None
    assert report.slots.open == (("text_encoder_2", "text_encoder_3") if with_t5 else ("text_encoder_2",))
    assert report.slots.empty == (() if with_t5 else ("text_encoder_3",))
    third = "T5EncoderModel): open" if with_t5 else "no encoder): empty"
    assert f"slot 3, text_encoder_3 ({third}" in str(report)


def test_flux_is_partial_and_reads_the_pooled_vector_alone(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = flux(tiny_pipe)
    report = of_family(tiny_encoder, "sd1").check(pipe, allow_partial=True)
    assert (report.ok, report.verdict) == (True, "fits slot 1 of 2: partial")
    found = report["output"]
    assert (found.severity, found.expected) == ("warning", "the last hidden state")
    assert found.found == "the pooled vector alone of FluxPipeline"
    assert "the words of a prompt reach the picture through text_encoder_2" in found.remedy
    pipe.transformer = None
    assert "output" not in failed(of_family(tiny_encoder, "sd1").check(pipe))


def test_an_encoder_of_sd_1_was_not_trained_for_the_layer_that_sdxl_reads(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    pipe = sdxl(tiny_pipe)
    assert of_family(tiny_encoder, "sd1").check(pipe)["output"].found.startswith("the last hidden state but one of")
    assert "output" not in failed(of_family(tiny_encoder, "sdxl").check(pipe))
    for family in EMBEDDED:
        assert "output" in failed(of_family(tiny_encoder, family).check(pipe))
    assert "output" not in failed(of_family(tiny_encoder, "sd1").check(tiny_pipe))
    assert "output" in failed(of_family(tiny_encoder, "sdxl").check(tiny_pipe))


def test_a_projection_would_have_no_effect_on_sdxl(tiny_pipe: Any) -> None:
    projection = make_projection(tiny_pipe)
    assert projection.check(tiny_pipe).verdict == "fits"
    report = projection.check(sdxl(tiny_pipe), allow_partial=True)
    assert report.fit == "none"
    assert "the projection would have no effect" in report["output"].remedy


@pytest.mark.parametrize("kind", [sdxl, sd3, flux])
@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_an_offloaded_pipeline_gets_the_same_report(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, kind: Callable[..., Any], mode: str
) -> None:
    from accelerate import cpu_offload

    pipe = kind(tiny_pipe)
    before = tiny_encoder.check(pipe)
    if mode == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        for name in before.slots.names if before.slots is not None else ():
            cpu_offload(getattr(pipe, name), torch.device("cpu"))
    after = tiny_encoder.check(pipe)
    assert after.verdict == before.verdict
    assert failed(after) == failed(before)
    assert after.slots == before.slots


def test_the_command_says_the_slot_and_takes_the_consent(
    tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, folder = str(save_artifact(tiny_pipe, tmp_path / "artifact")), tmp_path / "sdxl"
    sdxl(tiny_pipe).save_pretrained(folder)
    for consent, code in (([], 1), (["--allow-partial"], 0)):
        assert main(["check", artifact, str(folder), *consent]) == code
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "fits slot 1 of 2: partial"
        assert lines[-2].startswith("slot 2, text_encoder_2 (CLIPTextModelWithProjection): open")
    assert main(["check", artifact, str(folder), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["fit"], answer["verdict"]) == (False, "partial", "fits slot 1 of 2: partial")
    assert answer["slots"] == {
        "component": "text_encoder",
        "number": 1,
        "of": 2,
        "kinds": {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
        "open": ["text_encoder_2"],
        "covered": [],
        "empty": [],
    }
