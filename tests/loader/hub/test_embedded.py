"""The embedded base is a plain pipeline, or says how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import AssetsMissingError, embedded_pipeline
from robust_encoders.hub import embedded


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    return tmp_path / "shapes"


def test_the_folder_lies_in_the_package() -> None:
    assert embedded.embedded_folder("shapes") == Path(embedded.__file__).parents[1] / "assets" / "shapes"
    assert embedded.EMBEDDED_FAMILY == "shapes"


def test_a_name_stands_for_an_embedded_base_unless_a_pipeline_here_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (None, "shapes", "emoji", "org/emoji", tmp_path / "emoji", "")
    assert [embedded.embedded_name(name) for name in asked] == ["shapes", "shapes", "emoji", "", "", ""]
    for folder in ("shapes", "emoji"):
        (tmp_path / folder / "runs").mkdir(parents=True)
    (tmp_path / "emoji" / "model_index.json").write_text("{}")
    assert [embedded.embedded_name(name) for name in (None, "shapes", "emoji")] == ["shapes", "shapes", ""]


def test_a_base_is_installed_if_its_pipeline_is_there(tiny_pipe: Any, assets: Path) -> None:
    assert not embedded.is_installed("shapes")
    tiny_pipe.save_pretrained(assets / "base")
    assert embedded.is_installed("shapes")
    assert not embedded.is_installed("emoji")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_base_is_a_plain_pipeline_of_one_dtype(tiny_pipe: Any, assets: Path, dtype: torch.dtype | None) -> None:
    from diffusers import StableDiffusionPipeline

    tiny_pipe.unet.half()
    tiny_pipe.save_pretrained(assets / "base")
    pipe: Any = embedded_pipeline(dtype=dtype)
    assert type(pipe) is StableDiffusionPipeline
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        assert {parameter.dtype for parameter in part.parameters()} == {dtype or torch.float32}


def test_a_package_without_its_assets_says_how_to_get_them(assets: Path) -> None:
    with pytest.raises(AssetsMissingError, match="robust-encoders shapes build"):
        embedded_pipeline()


def test_every_base_without_its_assets_names_its_own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    for base in embedded.EMBEDDED_BASES:
        with pytest.raises(AssetsMissingError, match=f"robust-encoders {base} build"):
            embedded_pipeline(base)


@pytest.mark.parametrize("base", ["emojis", torch.float16])
def test_an_unknown_base_is_refused(base: Any) -> None:
    with pytest.raises(ValueError, match="expected an embedded base, shapes or emoji, found"):
        embedded_pipeline(base)
