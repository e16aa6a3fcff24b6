"""The embedded base is a plain pipeline, or says how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import AssetsMissingError, CompatibilityWarning, embedded_pipeline
from robust_encoders.hub import embedded
from robust_encoders.hub.pipelines import load_pipeline


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    return tmp_path / "shapes"


def test_the_folder_lies_in_the_package() -> None:
    assert embedded.embedded_folder("shapes") == Path(embedded.__file__).parents[1] / "assets" / "shapes"
    assert embedded.EMBEDDED_FAMILY == "shapes"


def test_a_name_always_stands_for_an_embedded_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (None, "shapes", "emoji", "org/emoji", "./emoji", Path("emoji"), tmp_path / "emoji", "")
    expected = ["shapes", "shapes", "emoji", "", "", "", "", ""]
    assert [embedded.embedded_name(name) for name in asked] == expected
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "model_index.json").write_text("{}")
    assert [embedded.embedded_name(name) for name in asked] == expected
    assert embedded.embedded_name("digits", ("shapes", "digits")) == "digits"


def test_a_pipeline_here_with_the_name_of_a_base_is_loaded_by_its_folder_alone(
    tiny_pipe: Any, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(assets / "base")
    (tmp_path / "here" / "shapes" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert load_pipeline("shapes").embedded == "shapes"  # a folder of runs is nothing to warn of
    tiny_pipe.save_pretrained("shapes")
    with pytest.warns(CompatibilityWarning, match="'shapes' is both an embedded base and a pipeline here.*'./shapes'"):
        assert load_pipeline("shapes").embedded == "shapes"
    assert load_pipeline(None).embedded == "shapes"
    assert load_pipeline("./shapes").embedded == ""


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
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        embedded_pipeline()


def test_every_base_without_its_assets_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    for base in embedded.EMBEDDED_BASES:
        with pytest.raises(AssetsMissingError, match=f"{base}.*; reinstall robust-encoders from a wheel$"):
            embedded_pipeline(base)


@pytest.mark.parametrize("base", ["emojis", torch.float16])
def test_an_unknown_base_is_refused(base: Any) -> None:
    with pytest.raises(ValueError, match="expected an embedded base, shapes or emoji, found"):
        embedded_pipeline(base)
