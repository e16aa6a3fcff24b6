"""A precision by its name, in every function that takes one; anything else is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.artifact.reader import Artifact
from robust_encoders.conversion.convert import artifact_of, convert
from robust_encoders.conversion.export import export
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline
from robust_encoders.training.diffusion.load import open_base
from robust_encoders.training.worlds.choice import open_named
from robust_encoders.utils.dtypes import DTYPES, SHORT, dtype_of, dtype_or_none

NAMES = {**DTYPES, **SHORT}
WRONG = ("cpu", "half", "torch.float16", "", torch.int8, 16)
# Functions that take a precision; None of them reaches its file.
TAKERS: dict[str, Callable[[Any], object]] = {
    "from_pretrained": lambda dtype: RobustEncoder.from_pretrained("./gone", dtype=dtype),
    "embedded_pipeline": lambda dtype: embedded_pipeline(dtype=dtype),
    "load_pipeline": lambda dtype: load_pipeline("./gone", PipelineOptions(dtype=dtype)),
    "load_pipeline, embedded": lambda dtype: load_pipeline(None, PipelineOptions(dtype=dtype)),
    "load_pipeline, by component": lambda dtype: load_pipeline("./gone", PipelineOptions(dtype={"unet": dtype})),
    "convert": lambda dtype: convert("gone", "out", dtype=dtype),
    "artifact_of": lambda dtype: artifact_of("gone", dtype=dtype),
    "open_base": lambda dtype: open_base("./gone", dtype=dtype),
    "open_named": lambda dtype: open_named("shapes", dtype=dtype),
}


def dtypes(module: Any) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}


def test_a_precision_is_a_dtype_or_a_name_of_the_command_line() -> None:
    assert {name: dtype_of(name) for name in NAMES} == NAMES
    assert [dtype_of(one) for one in (torch.float64, torch.bfloat16)] == [torch.float64, torch.bfloat16]
    assert dtype_or_none(None) is None


@pytest.mark.parametrize("given", WRONG)
@pytest.mark.parametrize("taker", TAKERS)
def test_anything_else_is_refused_with_what_to_pass(taker: str, given: object) -> None:
    with pytest.raises(ValueError, match=r"expected a precision as dtype: .*float32, float16, bfloat16") as caught:
        TAKERS[taker](given)
    assert f"found {given!r}; pass one of these" in str(caught.value)


def test_an_encoder_and_its_base_are_cast_by_name(tiny_encoder: RobustEncoder, tiny_pipe: Any, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert RobustEncoder.from_pretrained(tmp_path / "artifact", dtype="float16").dtype == torch.float16
    assert dtypes(embedded_pipeline(dtype="bf16").unet) == {torch.bfloat16}
    tiny_pipe.save_pretrained(tmp_path / "base")
    loaded = load_pipeline(tmp_path / "base", PipelineOptions(dtype={"unet": "float16", "default": "float32"})).pipe
    assert (dtypes(loaded.unet), dtypes(loaded.text_encoder)) == ({torch.float16}, {torch.float32})
    opened = open_base(tmp_path / "base", dtype=torch.bfloat16, device="cpu").pipe
    assert (dtypes(opened.unet), dtypes(opened.text_encoder)) == ({torch.bfloat16}, {torch.float32})
    assert dtypes(open_named(None, dtype=torch.bfloat16, whole=True).pipe.unet) == {torch.bfloat16}


def test_an_export_is_cast_by_name(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    loaded = tiny_encoder
    artifact = Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)
    with pytest.raises(ValueError, match="expected a precision as dtype"):
        export(artifact, "diffusers", tmp_path / "out", name="x", dtype="cpu")
    assert not (tmp_path / "out").exists()
    made = export(artifact, "diffusers", tmp_path / "out", name="x", dtype="float16").path
    copy = artifact_of(made, dtype="bfloat16")
    assert {tensor.dtype for tensor in copy.tensors.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in artifact_of(made).tensors.values()} == {torch.float16}
