"""Runs eval-unlearn in a process of its own: ``python eval_unlearn_runs.py FOLDER``; ``FOLDER`` has what it reads.

Its command line scores the technique ``robust_encoders`` by ``own.json``, and its runner scores its own technique
``free_run`` on the same base by ``free.json``. Then both draw the same prompts with the same seeds, the first one after
the encoder was detached. ``answer.json`` has what was found.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_unlearn import cli
from eval_unlearn.registry import get_technique
from eval_unlearn.runners import MultiBenchmarkRunner
from PIL import Image

from robust_encoders import RobustEncoder

PROMPTS = ["a red circle on a white background", "a blue square"]


def pixels(pictures: Sequence[Image.Image]) -> list[str]:
    return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]


def main(folder: Path) -> None:
    own, free = (json.loads((folder / f"{name}.json").read_text()) for name in ("own", "free"))
    sys.argv = ["eval-unlearn", "run", "--config", str(folder / "own.json")]
    cli.main()
    runner = MultiBenchmarkRunner(
        free["technique"]["name"],
        [metric["name"] for metric in free["metrics"]],
        technique_config=free["technique"]["config"],
        metric_configs={metric["name"]: metric["config"] for metric in free["metrics"]},
        output_dir=free["output_dir"],
        seed=0,
    )
    report = runner.run()
    made: list[Any] = [get_technique(one["technique"]["name"])(**one["technique"]["config"]) for one in (own, free)]
    attached = pixels(made[0].generate(PROMPTS, seed=3))
    RobustEncoder.from_pretrained("shapes/circle").detach(made[0].pipe)
    answer = {
        "free": report["metric_results"],
        "attached": attached,
        "detached": pixels(made[0].generate(PROMPTS, seed=3)),
        "by free_run": pixels(made[1].generate(PROMPTS, seed=3)),
        "by its own pipeline": pixels(saved(folder / own["output_dir"])),
        "again": pixels(get_technique("robust_encoders")(**own["technique"]["config"]).generate(captions(folder))),
    }
    (folder / "answer.json").write_text(json.dumps(answer))


def saved(folder: Path) -> list[Image.Image]:
    paths = [path for path in folder.rglob("*.png") if "circles" in path.name]
    return [Image.open(path) for path in sorted(paths, key=lambda path: int(path.stem.rpartition("_")[2]))]


def captions(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "captions.json").read_text())
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
