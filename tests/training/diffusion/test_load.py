"""The base that an encoder is made from: a folder or a pipeline on the Hub, without what training never looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Repo, serve
from safetensors.torch import load_file

from robust_encoders import BaseLoadError
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.training.diffusion.load import open_base

REPO = "org/tiny-diffusion"


@pytest.fixture
def folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_folder_is_opened_without_an_autoencoder(tiny_pipe: Any, folder: Path) -> None:
    opened = open_base(str(folder), device="cpu")
    assert opened.pipe.vae is None
    assert opened.pipe.safety_checker is None
    assert (opened.family, opened.ids, opened.revision) == ("", (), "")
    for part in ("unet", "text_encoder"):
        ours, theirs = getattr(opened.pipe, part).state_dict(), getattr(tiny_pipe, part).state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_only_the_unet_is_loaded_in_half_precision(folder: Path) -> None:
    pipe = open_base(str(folder), dtype="bfloat16", device="cpu").pipe
    assert {tensor.dtype for tensor in pipe.unet.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in pipe.text_encoder.parameters()} == {torch.float32}


def test_a_whole_base_has_its_autoencoder_and_one_precision(folder: Path) -> None:
    pipe = open_base(str(folder), dtype="bfloat16", device="cpu", whole=True).pipe
    assert pipe.safety_checker is None
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        assert {tensor.dtype for tensor in part.parameters()} == {torch.bfloat16}


def test_a_whole_base_may_hold_pickles(folder: Path) -> None:
    (weights,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    expected = load_file(weights)
    weights.unlink()
    found = open_base(str(folder), device="cpu", whole=True).pipe.unet.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_embedded_base_is_opened_by_no_name() -> None:
    opened = open_base(None)
    assert (opened.family, opened.ids, opened.revision) == ("shapes", (), "")
    whole = open_base(None, dtype="float16", whole=True).pipe
    assert {tensor.dtype for tensor in whole.unet.parameters()} == {torch.float16}


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(BaseLoadError, match=r"expected a device of this machine, such as cpu.*, found 'nowhere'"):
        open_base(str(folder), device="nowhere")


@pytest.mark.parametrize(
    ("shape", "family"), [({"width": 768, "layers": 12}, "sd1"), ({"width": 1024, "layers": 23}, "sd2")]
)
def test_the_family_goes_by_the_size_of_the_text_encoder(
    make_pipe: Callable[..., Any], tmp_path: Path, shape: dict[str, int], family: str
) -> None:
    pipe = make_pipe(**shape, heads=2, intermediate_size=4)
    pipe.save_pretrained(tmp_path / "base")
    assert open_base(str(tmp_path / "base"), device="cpu").family == family


@pytest.mark.parametrize("name", ["./nothing", "nothing", "a/b/c", "org/name@", ""])
def test_what_is_neither_a_folder_nor_an_id_is_refused(name: str) -> None:
    with pytest.raises(BaseLoadError, match=r"a folder with a diffusers pipeline, or its Hub id"):
        open_base(name)


def test_a_folder_that_looks_like_an_id_is_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseLoadError, match=r"no model_index\.json in 'org/name'"):
        open_base("org/name")


def test_a_pickle_is_refused(folder: Path) -> None:
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BaseLoadError, match="a complete pipeline with safetensors"):
        open_base(str(folder))


def test_a_base_on_the_hub_is_recorded_with_its_commit(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: the endpoint is read at import."""
    options = {
        "--base": REPO, "--concept": "a circle", "--family": "tiny", "--kind": "object", "--out": tmp_path / "out",
        "--train.iterations": 1, "--adversary.warmup": 0, "--attack.steps": 1,
        "--bank.steps": 2, "--bank.limit": 2, "--retain.batch": 1,
    }  # fmt: skip
    arguments = [str(part) for pair in options.items() for part in pair]
    with serve() as hub:
        hub.repos[REPO] = Repo()
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        commit = hub.repos[REPO].commit(files, "first").sha
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        code = (
            "import sys\nfrom robust_encoders.cli.main import main\n"
            f"sys.exit(main(['train', 'advunlearn', *{arguments!r}]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    base = Manifest.read(tmp_path / "out").base
    assert (base.family, base.ids, base.revision) == ("tiny", (REPO,), commit)
    assert not list((tmp_path / "hf").rglob("vae"))
    record = json.loads((tmp_path / "out" / "robust_encoder.json").read_text())
    prompts = record["method"]["retain"]["prompts"]
    assert len(prompts) > 200
    assert all(prompt.startswith("a photo of a") for prompt in prompts)
