"""Which files of a pipeline are loaded: bases in one variant only, mixtures, and pickles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_client import connect, push_folder
from hub_server import serve
from huggingface_hub import constants
from safetensors.torch import load_file

from robust_encoders import BaseLoadError
from robust_encoders.hub.base_files import read_index, variant_of
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline

INDEX = {"_class_name": "P", "unet": ["d", "U"], "text_encoder": ["t", "C"], "vae": ["d", "V"], "checker": [None, None]}
MODELS = ("unet", "text_encoder", "vae")


def names(*files: str) -> list[str]:
    return ["model_index.json", "scheduler/scheduler_config.json", *files]


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model.bf16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model.non_ema.safetensors"], "non_ema"),
        (["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model-00001-of-00002.safetensors"], None),
        (["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"], None),
        (["checker/model.fp16.safetensors", "other/model.fp16.safetensors"], None),
        (["unet/flax_model.msgpack"], None),
        ([], None),
    ],
)
def test_a_variant_is_chosen_only_where_plain_weights_lack(files: list[str], variant: str | None) -> None:
    assert variant_of(INDEX, names(*files), "here") == variant


def test_plain_pickles_beside_a_safe_variant_are_passed_over() -> None:
    files = names("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors")
    assert variant_of(INDEX, files, "here", safe=True) == "fp16"


def test_variants_that_do_not_meet_are_all_named() -> None:
    files = names("unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.bf16.safetensors")
    with pytest.raises(BaseLoadError, match=r"no common one \(text_encoder: bf16; unet: fp16\)"):
        variant_of(INDEX, files, "here")
    assert variant_of(INDEX, files, "here", without=("unet",)) == "bf16"


def test_pickles_are_refused_with_a_way_on() -> None:
    files = names("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "vae/model.safetensors")
    with pytest.raises(BaseLoadError, match=r"pickles alone for unet, text_encoder, .*save_pretrained\('FOLDER'\)"):
        variant_of(INDEX, files, "here", safe=True)
    assert variant_of(INDEX, files, "here", without=("unet", "text_encoder"), safe=True) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_an_index_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(content)
    with pytest.raises(BaseLoadError, match=r"model_index\.json"):
        read_index(tmp_path / "model_index.json")


@pytest.fixture
def half(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A base whose files are all of the variant fp16."""
    tiny_pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert all(list((tmp_path / "half" / name).glob("*.fp16.safetensors")) for name in MODELS)
    return tmp_path / "half"


def loaded_as_stored(pipe: Any, folder: Path) -> bool:
    (weights,) = (folder / "unet").glob("*.safetensors")
    stored = load_file(weights)
    return all(torch.equal(tensor.half(), stored[name]) for name, tensor in pipe.unet.state_dict().items())


@pytest.mark.parametrize("safetensors", [True, False])
def test_a_folder_of_half_precision_files_loads(
    half: Path, caplog: pytest.LogCaptureFixture, safetensors: bool
) -> None:
    with caplog.at_level(logging.INFO):
        pipe = load_pipeline(half, PipelineOptions(safetensors=safetensors)).pipe
    assert loaded_as_stored(pipe, half)
    assert "only as the variant fp16" in caplog.text


def test_a_folder_of_plain_files_ignores_the_variants_beside_them(tiny_pipe: Any, half: Path) -> None:
    tiny_pipe.to(torch.float32).save_pretrained(half)
    (half / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"no tensors")
    assert load_pipeline(half).pipe.unet is not None


def test_one_component_alone_may_lack_plain_files(tiny_pipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    tiny_pipe.save_pretrained(folder)
    (plain,) = (folder / "unet").glob("*.safetensors")
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    pipe = load_pipeline(folder).pipe
    assert all(getattr(pipe, name) is not None for name in MODELS)


def test_a_base_on_the_hub_in_one_variant_loads_whole_and_without_a_network(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        commit = push_folder(hub, "org/half", half)
        first = load_pipeline("org/half", PipelineOptions(without=("vae",)))
        assert loaded_as_stored(first.pipe, half)
        assert (first.ids, first.revision) == (("org/half",), commit)
        assert not any("/vae/" in path for _, path in hub.requests)
        hub.repos["org/half"].commit({}, "everything removed")
        again = load_pipeline(f"org/half@{commit}", PipelineOptions(without=("vae",)))
        assert again.revision == commit
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    loaded = load_pipeline(f"org/half@{commit}", PipelineOptions(without=("vae",)))
    assert (loaded.ids, loaded.revision) == (("org/half",), commit)
    with pytest.raises(BaseLoadError, match=r"'org/none' on the Hub, .*the Hub cannot be reached \(Connection refused"):
        load_pipeline("org/none")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/none", "there is no such repository, or it is private"),
        ("org/half@next", "it has no such revision"),
        ("org/bare", r"it has no model_index\.json"),
    ],
)
def test_what_the_hub_lacks_is_named(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        push_folder(hub, "org/half", half)
        push_folder(hub, "org/bare", half / "unet")
        with pytest.raises(BaseLoadError, match=words):
            load_pipeline(name)


def test_pickles_on_the_hub_are_refused_before_they_are_fetched(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "old", safe_serialization=False)
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        push_folder(hub, "org/old", tmp_path / "old")
        with pytest.raises(BaseLoadError, match="pickles alone for"):
            load_pipeline("org/old", PipelineOptions(safetensors=True))
        assert not any(path.endswith(".bin") for _, path in hub.requests)
