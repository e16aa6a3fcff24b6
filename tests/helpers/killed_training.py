"""A training that is killed again and again: killed_training.py PIPELINE FOLDER KILLS; run by test_killed_training.py.

Everything is imported once; every part of the training is a fork of this process, killed with SIGKILL at a random
moment of a random iteration. The last part runs to its end, and so does one that nobody killed. A line of JSON says
what became of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from diffusers import StableDiffusionPipeline
from torch import Generator
from training_worker import OPTIONS, RECIPES

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.objectives.terms import Objective
from robust_encoders.training.workspace import Workspace

EVERY = 2
MOST = 4  # iterations that a part may begin before it is killed
ITERATIONS = 31
METHOD = replace(OPTIONS, attack=SoftPrompt(steps=1, rate=0.01), train=replace(OPTIONS.train, iterations=ITERATIONS))


def train(pipe: Any, folder: Path, pipe_end: int) -> NoReturn:
    """Train, a byte into the pipe at the beginning of every iteration, the hash of the result into ``folder``."""
    call = Objective.__call__

    def telling(self: Objective, iteration: int, generator: Generator) -> Any:
        os.write(pipe_end, b".")
        return call(self, iteration, generator)

    Objective.__call__ = telling  # type: ignore[method-assign]
    space = Workspace(folder=folder, cache_dir=folder.parent / "bank", every=EVERY, progress=False)
    base, generator = Backbone.from_pipeline(pipe), Generator().manual_seed(1)
    edit = METHOD.erase(base, RECIPES["options"].concept, generator=generator, workspace=space)
    (folder / "hash").write_text(content_sha256(edit.tensors), encoding="utf-8")
    os._exit(0)


def part(pipe: Any, folder: Path, begun: int | None, after: float) -> bool:
    """Run a part; kill it so many seconds after it began so many iterations. Return whether that met it alive."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(pipe, folder, write)
    os.close(write)
    for _ in range(begun or 0):
        os.read(read, 1)
    if begun is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.close(read)
    return os.WIFSIGNALED(status)


def main(pipeline: str, folder: Path, kills: int) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(pipeline)
    rng = random.Random(0)
    whole, killed = folder / "whole", folder / "killed"
    started = time.monotonic()
    part(pipe, whole, None, 0.0)
    iteration = (time.monotonic() - started) / ITERATIONS
    reached = []
    for _ in range(kills):
        if part(pipe, killed, rng.randint(1, MOST), rng.uniform(0, iteration)):
            reached.append(max((path.name for path in killed.glob("checkpoint-*")), default=""))
    part(pipe, killed, None, 0.0)
    hashes = [(run / "hash").read_text(encoding="utf-8") for run in (whole, killed)]
    left = sorted(path.name for path in killed.iterdir())
    sys.stdout.write(json.dumps({"hashes": hashes, "reached": reached, "left": left}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
