"""The artifact in memory: what it is, how it loads, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import robust_encoders
from robust_encoders import ManifestError, RobustEncoder
from robust_encoders.hub import resolve


def test_an_encoder_introduces_itself(tiny_encoder: RobustEncoder) -> None:
    assert repr(tiny_encoder) == "RobustEncoder('circle' erased by test, base='tiny', dtype=torch.float32)"
    assert tiny_encoder.provenance == {
        "concept": "circle",
        "kind": "object",
        "method": "test",
        "base": "tiny",
        "license": "apache-2.0",
        "content_sha256": tiny_encoder.content_sha256,
    }


@pytest.mark.parametrize("change", [{"form": "projection"}, {"component": "unet"}])
def test_other_forms_are_refused(tiny_encoder: RobustEncoder, change: dict[str, Any]) -> None:
    with pytest.raises(
        ManifestError, match="expected form 'weights' of component 'text_encoder' or 'text_encoder_2', found"
    ):
        RobustEncoder(replace(tiny_encoder.manifest, **change), tiny_encoder.tensors, tiny_encoder.config)


def test_trainable_tensors_are_detached(tiny_encoder: RobustEncoder) -> None:
    trained = {name: tensor.clone().requires_grad_() for name, tensor in tiny_encoder.tensors.items()}
    encoder = RobustEncoder(tiny_encoder.manifest, trained, tiny_encoder.config)
    assert not any(tensor.requires_grad for tensor in encoder.tensors.values())


def test_a_short_name_loads_attaches_and_draws(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "encoders" / "circle")
    monkeypatch.setattr(resolve, "embedded_folder", lambda base: tmp_path)
    pipe = RobustEncoder.from_pretrained("shapes/circle").attach(tiny_pipe)
    picture = pipe("a red circle", num_inference_steps=1, output_type="np").images
    assert picture.shape == (1, 16, 16, 3)


def test_a_dtype_casts_the_tensors(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    half = RobustEncoder.from_pretrained(tmp_path / "artifact", dtype=torch.float16)
    assert half.dtype == torch.float16
    assert half.manifest == tiny_encoder.manifest


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, robust_encoders\n"
        "heavy = ('transformers', 'diffusers', 'accelerate', 'huggingface_hub', 'robust_encoders.training')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_sorted_and_there() -> None:
    names = robust_encoders.__all__
    assert all(hasattr(robust_encoders, name) for name in names)
    assert len(set(names)) == len(names)
    assert robust_encoders.__version__.count(".") == 2
