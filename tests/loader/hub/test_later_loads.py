"""What loading a verified encoder of full size costs, beside what transformers takes for the same file unchecked."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.clip.text_model import _shapes
from robust_encoders.hub.pins import Pin, write_pin

CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip
SMALL = {**CLIP_L, "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
# Loads something small first, so that imports are not measured; then resets the peak of the memory and loads.
CHILD = """
import json, sys, time
from transformers import CLIPTextModel
from transformers.utils import logging
from robust_encoders import RobustEncoder

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")]

loaders = {
    "transformers": CLIPTextModel.from_pretrained,
    "ours": lambda folder: RobustEncoder.from_pretrained(folder).text_encoder(),
}
logging.disable_progress_bar()
load = loaders[sys.argv[1]]
load(sys.argv[3])
open("/proc/self/clear_refs", "w").write("5")
before, wall, cpu = memory(), time.perf_counter(), time.process_time()
model = load(sys.argv[2])
wall, cpu, after = time.perf_counter() - wall, time.process_time() - cpu, memory()
print(json.dumps({"wall": wall, "cpu": cpu, "peak": after[1] - before[0], "own": after[2] - before[2]}))
"""
KINDS = ("first, unpinned", "first, pinned", "later", "transformers")


def saved(folder: Path, config: dict[str, Any]) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = _shapes(config)
    tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    concept = Concept(name="circle", kind="object")
    manifest = Manifest(concept=concept, method={"name": "test"}, base=Base(family="SD 1.4"))
    RobustEncoder(manifest, tensors, config).save_pretrained(folder)
    return folder


def measured(kind: str, home: Path, full: Path, small: Path) -> dict[str, float]:
    """Load in a process of its own; return seconds and MiB."""
    environment = {**os.environ, "ROBUST_ENCODERS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    loader = "transformers" if kind == "transformers" else "ours"
    command = [sys.executable, "-c", CHILD, loader, str(full), str(small)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def table(medians: dict[str, dict[str, float]]) -> str:
    head = f"\n{'load':18}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'own MiB':>9}\n"
    return head + "".join(
        f"{kind:18}{row['wall']:9.3f}{row['cpu']:9.3f}{row['peak']:10.0f}{row['own']:9.0f}\n"
        for kind, row in medians.items()
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
def test_later_loads_cost_what_transformers_own_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, small = saved(tmp_path / "full", CLIP_L), saved(tmp_path / "small", SMALL)
    time.sleep(2.5)  # a file that was written just now is not remembered
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in range(5):
        for kind in KINDS:
            home = tmp_path / ("later" if kind == "later" else f"{kind}{turn}")
            if kind == "first, pinned":
                monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(home))
                write_pin(str(full.resolve()), Pin(files=Manifest.read(full).files))
            if kind == "later" and not home.exists():
                measured(kind, home, full, small)
            runs[kind].append(measured(kind, home, full, small))
    size = (full / "model.safetensors").stat().st_size / 2**20
    (full / "model.safetensors").unlink()
    columns = ("wall", "cpu", "peak", "own")
    medians = {kind: {c: statistics.median(row[c] for row in rows) for c in columns} for kind, rows in runs.items()}
    sys.stderr.write(table(medians))
    later, theirs = medians["later"], medians["transformers"]
    assert later["cpu"] < 0.5 * medians["first, pinned"]["cpu"] < medians["first, unpinned"]["cpu"]
    assert later["cpu"] < 2 * theirs["cpu"]
    # The file is mapped: how many of its clean pages count for a process is up to how the system caches it. None is
    # copied.
    assert later["peak"] < 1.1 * size
    assert later["own"] < theirs["own"] + 8
