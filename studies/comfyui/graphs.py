"""Run the node and the exports in a real ComfyUI: graphs.py COMFYUI PYTHON WORK RECORD; about ten minutes of one core.

COMFYUI is a checkout of ComfyUI, PYTHON the interpreter of an environment that runs it and has this package, WORK a
folder for models of 4 GB, and RECORD the file for what was found. The server is driven as its own page drives it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from base_models import SD1, SD2, Family, artifacts, base, checkpoint, second_encoder_of_sdxl
from safetensors.torch import load_file

from robust_encoders.cli.main import main as command
from robust_encoders.integrations.comfyui.choices import OTHER

PORT, WAIT = 8199, 600
ROOT = Path(__file__).parents[2]
Graph = dict[str, dict[str, Any]]


def prepare(comfyui: Path, folder: Path) -> None:
    """Write checkpoints, artifacts and exports into a folder for ComfyUI."""
    models = folder / "models"
    for family in (SD1, SD2):
        pipe = base(family, comfyui / "comfy" / "sd1_tokenizer")
        file = checkpoint(pipe, family, models / "checkpoints" / f"{family.name}.safetensors")
        artifacts(pipe, family, models / "robust_encoders")
        for folder_of_one in sorted((models / "robust_encoders").glob(f"{family.name}-*")):
            _export(folder_of_one, models, file)
    second_encoder_of_sdxl(models / "text_encoders" / "clip_g.safetensors")


def _export(artifact: Path, models: Path, into: Path) -> None:
    form = artifact.name.partition("-")[2]
    alone = {"weights": "text_encoders", "adapter": "loras"}.get(form)
    to = ["export", str(artifact), "--to", "comfyui", "--out"]
    if alone:
        assert command([*to, str(models / alone)]) == 0
    assert command([*to, str(models / "checkpoints"), "--into", str(into)]) == 0


@contextmanager
def server(comfyui: Path, python: str, folder: Path) -> Iterator[Path]:
    """Run ComfyUI's own server for the length of a block; yield its log."""
    log = folder / "server.log"
    options = ["--cpu", "--base-directory", str(folder), "--port", str(PORT), "--disable-api-nodes"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROBUST_ENCODERS_HOME": str(folder / "home")}
    with log.open("wb") as written:
        started = [python, str(comfyui / "main.py"), *options]
        process = subprocess.Popen(started, cwd=folder, env=environment, stdout=written, stderr=subprocess.STDOUT)
        try:
            _until(lambda: _asked("/system_stats"))
            yield log
        finally:
            process.terminate()
            process.wait()


def _until(question: Any) -> Any:
    for _ in range(WAIT):
        try:
            if found := question():
                return found
        except OSError:
            pass
        time.sleep(1)
    raise TimeoutError(f"expected an answer of ComfyUI within {WAIT} seconds, found none; read server.log")


def _asked(path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers)) as answer:
        return json.loads(answer.read() or b"null")


def graph(
    family: Family, *, checkpoint: str = "", clip: str = "", nodes: Sequence[Mapping[str, Any]] = (), space: str = ""
) -> Graph:
    """Return a graph that draws one latent.

    Args:
        family: Family of the base.
        checkpoint: Name of another checkpoint than the base.
        clip: Name of a file for the node Load CLIP, in place of the checkpoint's CLIP.
        nodes: Further nodes between loader and sampler, in order; each takes MODEL and CLIP, and returns both.
        space: White space after both prompts. It changes no token, and ComfyUI encodes the prompts again.
    """
    found: Graph = {"1": _node("CheckpointLoaderSimple", ckpt_name=checkpoint or f"{family.name}.safetensors")}
    model, text = ["1", 0], ["1", 1]
    if clip:
        found["2"], text = _node("CLIPLoader", clip_name=clip, type="stable_diffusion"), ["2", 0]
    for number, inputs in enumerate(nodes, start=10):
        kind = inputs.get("class_type", "RobustEncoder")
        own = {key: value for key, value in inputs.items() if key != "class_type"}
        found[str(number)] = _node(kind, model=model, clip=text, **own)
        model, text = [str(number), 0], [str(number), 1]
        if kind == "RobustEncoder":
            found[f"{number}1"] = _node("PreviewAny", source=[str(number), 2])
    found["3"] = _node("CLIPTextEncode", clip=text, text=f"a picture of a red circle{space}")
    found["4"] = _node("CLIPTextEncode", clip=text, text=space)
    found["5"] = _node("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampler = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    wires: dict[str, Any] = {"model": model, "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    found["6"] = _node("KSampler", **wires, **sampler)
    found["7"] = _node("SaveLatent", samples=["6", 0], filename_prefix="latent")
    return found


def robust(family: Family, form: str, **more: Any) -> dict[str, Any]:
    """Return the inputs of our node for a folder below ComfyUI's models."""
    return {"encoder": f"folder: {family.name}-{form}", "other": "", "allow_partial": False, **more}


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def run(prompt: Graph, folder: Path) -> dict[str, Any]:
    """Run a graph; return its latent, the texts on its nodes, or what was refused."""
    try:
        number = _asked("/prompt", {"prompt": prompt})["prompt_id"]
    except urllib.error.HTTPError as refusal:
        errors = json.loads(refusal.read())["node_errors"]
        return {"refused": "; ".join(one["details"] for node in errors.values() for one in node["errors"])}
    done = _until(lambda: _asked(f"/history/{number}").get(number))
    for kind, message in done["status"]["messages"]:
        if kind == "execution_error":
            return {"refused": message["exception_message"].strip()}
    texts = [text for node in done["outputs"].values() for text in node.get("text", ())]
    saved = [one for node in done["outputs"].values() for one in node.get("latents", ())]
    latents = [load_file(folder / "output" / one["subfolder"] / one["filename"])["latent_tensor"] for one in saved]
    return {"latent": latents[0] if latents else None, "texts": texts}


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the relative distance of two latents."""
    a, b = one["latent"].double(), other["latent"].double()
    return float((a - b).norm() / b.norm())


def draw(folder: Path) -> dict[str, Any]:
    """Run every graph; return what was found."""
    lora = {"class_type": "LoraLoader", "lora_name": "sd1-adapter.safetensors"}
    found: dict[str, Any] = {}
    for family in (SD1, SD2):
        plain, node = run(graph(family), folder), run(graph(family, nodes=(robust(family, "weights"),)), folder)
        twice = run(graph(family, nodes=[robust(family, "weights")] * 2), folder)
        again = run(graph(family, space=" "), folder)
        alone = run(graph(family, clip=f"{family.name}-weights.safetensors"), folder)
        whole = run(graph(family, checkpoint=f"{family.name}-weights.safetensors"), folder)
        found[family.name] = {
            "node and base": distance(node, plain),
            "node and export of a text encoder": distance(node, alone),
            "node and export of a checkpoint": distance(node, whole),
            "node twice and once": distance(twice, node),
            "base after the node and before": distance(again, plain),
            "status": node["texts"][0].splitlines(),
            "status of the second": twice["texts"][-1].splitlines()[1],
        }
    plain = run(graph(SD1), folder)
    for form in ("projection", "delta", "adapter"):
        node = run(graph(SD1, nodes=(robust(SD1, form),)), folder)
        whole = run(graph(SD1, checkpoint=f"sd1-{form}.safetensors"), folder)
        found[form] = {"node and base": distance(node, plain), "node and export": distance(node, whole)}
    node = run(graph(SD1, nodes=(robust(SD1, "adapter"),)), folder)
    loaded = run(graph(SD1, nodes=({**lora, "strength_model": 1.0, "strength_clip": 1.0},)), folder)
    found["adapter"]["node and LoRA"] = distance(node, loaded)
    found["refused"] = refusals(folder, {**lora, "strength_model": 1.0, "strength_clip": 1.0})
    return found


def refusals(folder: Path, lora: Mapping[str, Any]) -> dict[str, str]:
    """Return what is said about graphs that do not fit."""
    sdxl = graph(SD1)
    sdxl["2"] = _node(
        "DualCLIPLoader", clip_name1="sd1-weights.safetensors", clip_name2="clip_g.safetensors", type="sdxl"
    )
    asked = {
        "encoder of SD 2 for SD 1": graph(SD1, nodes=(robust(SD2, "weights"),)),
        "delta after a LoRA": graph(SD1, nodes=(lora, robust(SD1, "delta"))),
        "no such name": graph(SD1, nodes=(robust(SD1, "weights", encoder=OTHER, other="chruch"),)),
        "encoder of the embedded base": graph(
            SD1, nodes=(robust(SD1, "weights", encoder=OTHER, other="shapes/circle"),)
        ),
    }
    for partial in (False, True):
        node = _node("RobustEncoder", clip=["2", 0], **robust(SD1, "weights", allow_partial=partial))
        shown = {"8": node, "9": _node("PreviewAny", source=["8", 2])}
        asked[f"SDXL, allow_partial {partial}"] = {"2": sdxl["2"], **shown}
    answers = {name: run(prompt, folder) for name, prompt in asked.items()}
    return {name: one.get("refused") or one["texts"][0] for name, one in answers.items()}


def complaints(log: str) -> list[str]:
    """Return what ComfyUI's log says of names that it misses or does not know, each layer once.

    The stand-in for the second encoder of SDXL, which has 32 layers and one tensor, is left out.
    """
    found = []
    for line in re.findall(r"(?:clip missing|lora key not loaded|unet missing|unet unexpected).*", log):
        kind, _, names = line.partition(": ")
        layers = (re.sub(r"(layers\.\d+)\..+", r"\1", name) for name in re.findall(r"[\w.]+", names))
        if "layers.31." not in names:
            found.append(f"{kind}: {', '.join(dict.fromkeys(layers))}")
    return found


def main(comfyui: Path, python: str, work: Path, record: Path) -> None:
    """Prepare the models, run the graphs, and write the record."""
    if not (work / "models").exists():
        prepare(comfyui, work)
    shutil.rmtree(work / "custom_nodes", ignore_errors=True)
    shutil.copytree(ROOT / "integrations" / "comfyui", work / "custom_nodes" / "robust_encoders")
    with server(comfyui, python, work) as log:
        version = _asked("/system_stats")["system"]["comfyui_version"]
        found = {"comfyui": version, "torch": torch.__version__, **draw(work)}
        told = complaints(log.read_text(encoding="utf-8", errors="replace"))
    text = json.dumps({**found, "log": told}, indent=2).replace(str(work), "WORK")
    record.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3]).resolve(), Path(sys.argv[4]))
