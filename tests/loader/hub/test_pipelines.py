"""From a name to a pipeline: folders, the embedded base, and what is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import BaseLoadError
from robust_encoders.hub import embedded
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline


@pytest.fixture
def folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}


def test_a_folder_comes_back_whole_as_it_was_saved(tiny_pipe: Any, folder: Path) -> None:
    loaded = load_pipeline(folder)
    assert (loaded.ids, loaded.revision) == ((), "")
    for part in ("vae", "unet", "text_encoder"):
        ours, theirs = getattr(loaded.pipe, part).state_dict(), getattr(tiny_pipe, part).state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_components_are_left_out_and_cast_as_asked(folder: Path) -> None:
    dtype = {"unet": torch.float16, "default": torch.float32}
    pipe = load_pipeline(str(folder), PipelineOptions(dtype=dtype, without=("vae",))).pipe
    assert pipe.vae is None
    assert (dtypes(pipe.unet), dtypes(pipe.text_encoder)) == ({torch.float16}, {torch.float32})


def test_no_name_stands_for_the_embedded_base() -> None:
    loaded = load_pipeline(None, PipelineOptions(dtype=torch.bfloat16))
    assert dtypes(loaded.pipe.vae) == dtypes(loaded.pipe.unet) == {torch.bfloat16}
    assert (loaded.embedded, loaded.family, loaded.ids) == ("shapes", "shapes", ())


def test_an_embedded_base_is_found_by_its_name_and_is_a_family(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / base)
    tiny_pipe.save_pretrained(tmp_path / "emoji" / "base")
    assert load_pipeline("emoji").family == "emoji"


def test_a_path_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseLoadError, match=r"no model_index\.json in '?org/name"):
        load_pipeline(Path("org/name"))


def test_pickles_are_refused_where_safetensors_are_asked_for(folder: Path) -> None:
    (weights,) = (folder / "unet").glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BaseLoadError, match="expected a complete pipeline with safetensors"):
        load_pipeline(folder, PipelineOptions(safetensors=True))


def test_a_device_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BaseLoadError, match=r"expected a device of this machine, such as cpu.*, found 'nowhere'"):
        load_pipeline(folder, PipelineOptions(device="nowhere"))
