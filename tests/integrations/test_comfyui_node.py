"""The node in a graph, by ComfyUI's protocol: loaded from its folder, validated, run, kept, bypassed."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_executor import Executor, PromptServer, loaded, modules
from comfyui_models import clip_of, model_of
from overlays import make_delta
from tree import ROOT

from robust_encoders import RobustEncoder

FOLDER = ROOT / "integrations" / "comfyui"
IDS = torch.tensor([[1, 5, 9, 2]])


@pytest.fixture
def models(tmp_path: Path, tiny_pipe: Any, tiny_encoder: RobustEncoder) -> Path:
    """Return ComfyUI's folder of models, with an encoder and a delta."""
    for name, artifact in {"circle": tiny_encoder, "delta": make_delta(tiny_pipe)}.items():
        artifact.save_pretrained(tmp_path / "models" / "robust_encoders" / name)
    return tmp_path / "models"


@pytest.fixture
def executor(models: Path, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Return an executor with the node and with those around it."""
    for name, module in modules(models).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(PromptServer, "instance", PromptServer())
    clip, model = clip_of(tiny_pipe), model_of(tiny_pipe)

    class Loader:
        RETURN_TYPES, FUNCTION = ("MODEL", "CLIP"), "load"

        @classmethod
        def INPUT_TYPES(cls) -> Any:
            return {"required": {}}

        def load(self) -> Any:
            return model, clip

    class Encode:
        RETURN_TYPES, FUNCTION = ("CONDITIONING",), "encode"

        @classmethod
        def INPUT_TYPES(cls) -> Any:
            return {"required": {"clip": ("CLIP",)}}

        def encode(self, clip: Any) -> Any:
            return (clip.encode(IDS),)

    class Draw:
        RETURN_TYPES, FUNCTION = ("LATENT",), "draw"

        @classmethod
        def INPUT_TYPES(cls) -> Any:
            return {"required": {"model": ("MODEL",)}}

        def draw(self, model: Any) -> Any:
            return (len(model.patches),)

    node = loaded(FOLDER)
    return Executor({"Loader": Loader, "Encode": Encode, "Draw": Draw, **node.NODE_CLASS_MAPPINGS})


def graph(*, bypassed: bool = False, **inputs: Any) -> dict[str, Any]:
    """Return a graph; a bypassed node is left out, and its outputs come from its inputs, as ComfyUI's page does it."""
    source = ["1", 1] if bypassed else ["2", 1]
    given = {"clip": ["1", 1], "encoder": "folder: circle", "other": "", "allow_partial": False, **inputs}
    node = {} if bypassed else {"2": {"class_type": "RobustEncoder", "inputs": given}}
    return {
        "1": {"class_type": "Loader", "inputs": {}},
        **node,
        "3": {"class_type": "Encode", "inputs": {"clip": source}},
        "4": {"class_type": "Draw", "inputs": {"model": ["1" if bypassed else "2", 0]}},
    }


def test_the_node_states_what_comfyui_reads(executor: Executor) -> None:
    (kind,) = [one for name, one in executor.classes.items() if name == "RobustEncoder"]
    types = kind.INPUT_TYPES()
    assert types["required"]["clip"][0] == "CLIP"
    assert types["required"]["encoder"][0][-2:] == ["folder: circle", "folder: delta"]
    assert types["optional"]["model"][0] == "MODEL"
    assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES) == len(kind.OUTPUT_TOOLTIPS)
    assert callable(getattr(kind, kind.FUNCTION))


def test_a_prompt_is_encoded_by_the_robust_encoder(executor: Executor, tiny_encoder: RobustEncoder) -> None:
    (found,) = executor.run(graph(), "3")
    with torch.no_grad():
        expected = tiny_encoder.text_encoder()(IDS).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_status_is_on_the_node_and_an_output(executor: Executor, tiny_encoder: RobustEncoder) -> None:
    *_, text = executor.run(graph(), "2")
    assert executor.ui["2"] == {"text": (text,)}
    assert PromptServer.instance is not None
    assert PromptServer.instance.texts == {"2": text}
    assert text.startswith("'circle' erased by test\non: text encoder 1 of 1\ncovered:\n")
    assert f"sha256: {tiny_encoder.content_sha256}" in text


def test_without_a_server_the_status_is_an_output(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptServer, "instance", None)
    *_, text = executor.run(graph(), "2")
    assert executor.ui["2"] == {"text": (text,)}


def test_a_bypassed_node_changes_nothing(executor: Executor) -> None:
    (before,) = executor.run(graph(bypassed=True), "3")
    executor.run(graph(), "3")
    executor._kept.clear()
    (after,) = executor.run(graph(bypassed=True), "3")
    assert torch.equal(before, after)


def test_the_node_runs_again_only_if_the_files_changed(
    executor: Executor, models: Path, tiny_encoder: RobustEncoder
) -> None:
    executor.run(graph(), "2")
    executor.run(graph(), "2")
    assert executor.ran.count("2") == 1
    tiny_encoder.annotate(license="mit").save_pretrained(models / "robust_encoders" / "circle")
    *_, text = executor.run(graph(), "2")
    assert executor.ran.count("2") == 2
    assert "license: mit" in text


def test_a_wrong_name_is_told_before_the_graph_runs(executor: Executor) -> None:
    found = executor.problems(graph(encoder="the name or folder below", other="chruch"))
    assert "Did you mean 'church'?" in found["2"][0]
    assert executor.problems(graph(encoder="folder: gone")).keys() == {"2"}
    assert executor.problems(graph(other=["9", 0])) == {}, "another node computes it"


def test_a_refusal_says_what_to_do(executor: Executor, models: Path) -> None:
    with pytest.raises(Exception, match="connect MODEL of Load Checkpoint with this node"):
        executor.run(graph(encoder="folder: delta"), "2")


def test_a_delta_changes_the_model(executor: Executor, tiny_pipe: Any) -> None:
    wired = graph(encoder="folder: delta", model=["1", 0])
    assert executor.run(wired, "4") == (len(make_delta(tiny_pipe).tensors),)
    assert executor.run(graph(bypassed=True), "4") == (0,)


def test_a_sampler_without_a_model_is_told_why(executor: Executor) -> None:
    with pytest.raises(RuntimeError, match="Execution Blocked: connect MODEL with the robust encoder's node"):
        executor.run(graph(), "4")
    assert executor.run(graph(model=["1", 0]), "4") == (0,)


def test_the_folder_is_what_the_registry_asks_for() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["project"]["version"] == ours["version"]
    assert project["project"]["license"] == {"text": ours["license"]}
    assert project["project"]["dependencies"] == (FOLDER / "requirements.txt").read_text("utf-8").splitlines()
    assert project["tool"]["comfy"]["DisplayName"]
    (needed,) = project["project"]["dependencies"]
    least, below = re.fullmatch(r"robust-encoders>=([\d.]+),<([\d.]+)", needed).groups()  # type: ignore[union-attr]
    version = tuple(map(int, ours["version"].split(".")))
    assert tuple(map(int, least.split("."))) <= version < tuple(map(int, below.split(".")))
    assert not any(name.startswith("integrations") for name in ours_packages())


def ours_packages() -> list[str]:
    """Return the packages of the wheel, which does not hold the node."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    return list(found)
