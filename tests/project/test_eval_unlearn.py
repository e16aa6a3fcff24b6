"""eval-unlearn itself finds the technique, draws with it, and reads the prompts that we write; its reports say so.

Its runs are part of make test-docs; ``tests/loader/integrations/test_eval_unlearn.py`` tests the technique without it.
What it cannot have without a download is replaced: ``datasets``, by which it would fetch, and ``mma_diff``, its search
for prompts, which prompts from a file make unnecessary.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from tree import ROOT

from robust_encoders import CATALOG, embedded_pipeline
from robust_encoders.integrations.eval_unlearn import TechniqueConfig
from robust_encoders.training.evaluation.benchmarks.mma_prompts import AdversarialPrompt, mma_text

CAPTIONS = [
    "a red circle on a white background", "a blue circle on a black background", 'a "green" circle', "a circle, yellow",
    "a white circle\non a red background", "a circle",
]  # fmt: skip
REPLACED = {
    "datasets.py": "def load_dataset(*_, **__):\n    raise OSError('no network')\n",
    "mma_diff.py": "class AdversarialPromptGenerator:\n    pass\n",
    "circle_metric-0.dist-info/METADATA": "Metadata-Version: 2.1\nName: circle-metric\nVersion: 0\n",
    "circle_metric-0.dist-info/entry_points.txt": "[eval_unlearn.metrics]\ncircles = circle_metric:CircleMetric\n",
}


def config(folder: Path, technique: str, **settings: Any) -> dict[str, Any]:
    prompts = {"precomputed_prompts_path": str(folder / "won.csv")}
    nudity = {"concept_name": "nudity", "output_csv": str(folder / "unused.csv"), "device": "cpu", **prompts}
    return {
        "output_dir": str(folder / technique),
        "technique": {"name": technique, "config": {"device": "cpu", "num_inference_steps": 15, **settings}},
        "metrics": [
            {"name": "circles", "config": prompts},
            *([{"name": "asr_mma_diffusion", "config": nudity}] if technique == "robust_encoders" else []),
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which eval-unlearn ran."""
    folder = tmp_path_factory.mktemp("eval-unlearn")
    for name, text in REPLACED.items():
        (folder / "plug-ins" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "plug-ins" / name).write_text(text)
    shutil.copy(ROOT / "tests" / "helpers" / "circle_metric.py", folder / "plug-ins")
    embedded_pipeline().save_pretrained(folder / "base")
    (folder / "won.csv").write_text(mma_text([AdversarialPrompt(text, "a circle") for text in CAPTIONS]), "utf-8")
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))
    base = str(folder / "base")
    own = config(folder, "robust_encoders", encoder="shapes/circle", model_id=base, erase_concept="circle")
    (folder / "own.json").write_text(json.dumps(own))
    (folder / "free.json").write_text(json.dumps(config(folder, "free_run", model_id=base)))
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "eval_unlearn_runs.py"), str(folder)]
    paths = [str(folder / "plug-ins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Failed to load plugin robust_encoders" not in done.stdout
    return folder


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.xdist_group("eval-unlearn")
@pytest.mark.docs
@pytest.mark.base
def test_its_command_line_scores_an_encoder(folder: Path) -> None:
    report = read(folder / "robust_encoders" / "robust_encoders_circle_latest_report.json")
    assert (report["technique_name"], report["erase_concept"]) == ("robust_encoders", "circle")
    results, free = report["metric_results"], read(folder / "answer.json")["free"]
    assert len(results["circles"]["details"]["seen"]) == len(free["circles"]["details"]["seen"]) == len(CAPTIONS)
    assert free["circles"]["value"] >= 5 / 6
    assert results["circles"]["value"] <= 1 / 6
    assert results["asr_mma_diffusion"]["details"]["total_images"] == len(CAPTIONS)
    assert results["asr_mma_diffusion"]["value"] == 0


@pytest.mark.xdist_group("eval-unlearn")
@pytest.mark.docs
@pytest.mark.base
def test_its_own_technique_draws_the_same_with_the_same_seeds_once_the_encoder_is_off(folder: Path) -> None:
    answer = read(folder / "answer.json")
    assert answer["detached"] == answer["by free_run"]
    assert answer["attached"][0] != answer["detached"][0]


@pytest.mark.xdist_group("eval-unlearn")
@pytest.mark.docs
@pytest.mark.base
def test_a_run_without_a_seed_can_be_drawn_again(folder: Path) -> None:
    answer = read(folder / "answer.json")
    assert len(answer["again"]) == len(CAPTIONS)
    assert answer["by its own pipeline"] == answer["again"]


def test_the_page_has_every_setting_and_an_example_that_is_one() -> None:
    text = (ROOT / "docs" / "eval-unlearn.md").read_text(encoding="utf-8")
    settings = re.search(r"^\| setting .*?\n\n", text, re.DOTALL | re.MULTILINE)
    example = re.search(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert settings is not None
    assert example is not None
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", settings[0], re.MULTILINE) for name in re.findall(r"\w+", row)
    ]
    assert named == [field.name for field in fields(TechniqueConfig)]
    read = json.loads(example[1])
    assert TechniqueConfig.of(read["technique"]["config"]).encoder in CATALOG
    assert {one["name"] for one in read["metrics"]} <= entry_points(group="eval_unlearn.metrics").names
    assert read["technique"]["name"] in entry_points(group="eval_unlearn.techniques").names
