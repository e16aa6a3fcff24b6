"""Count how often a call changes from file to file inside this package: ways.py OUT; about four minutes.

``sys.setprofile`` reports at run time every entry into a Python function whose code lies in this package. Two
consecutive entries in different files are a change of file. The file OUT gets the counts of four calls.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import robust_encoders
from robust_encoders import RobustEncoder, embedded_pipeline, training
from robust_encoders.training import RECIPES, EvaluationConfig, Recipe, ShapesBenchmark, evaluate, run_recipe
from robust_encoders.training.evaluation.defence import Defence
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.provenance import write_json

PACKAGES = (robust_encoders, training)
ROOTS = tuple(f"{Path(str(package.__file__)).parent.resolve()}/" for package in PACKAGES)
SHOWN = 12


@dataclass
class Ways:
    """Entries into functions of this package, counted in the order in which they happen.

    Args:
        functions: Number of entries.
        pairs: Number of changes for each pair of file left and file entered.
        files: Paths of the files entered.
    """

    functions: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    _last: str = field(default="", init=False, repr=False)

    def enter(self, frame: FrameType, event: str, _: Any) -> None:
        """Count one event of the profiler if it is an entry into a function of this package."""
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(ROOTS):
            return
        self.functions += 1
        self.files.add(name)
        if self._last and name != self._last:
            self.pairs[self._last, name] += 1
        self._last = name

    def counts(self) -> Counts:
        """Return the counts that are recorded."""
        return Counts(self.functions, self.pairs.total(), len(self.pairs), len(self.files))


@dataclass(frozen=True)
class Counts:
    """Figures of one call.

    Args:
        functions: Number of entries into functions of this package.
        changes: Number of entries into another file than the entry before.
        different: Number of different pairs of files among these changes.
        files: Number of files entered.
    """

    functions: int
    changes: int
    different: int
    files: int


def ways_of(work: Callable[[], object]) -> Ways:
    """Run ``work`` on this thread and return the entries into functions of this package."""
    found = Ways()
    sys.setprofile(found.enter)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def small_recipe() -> Recipe:
    """Return ``shapes/circle-advunlearn`` with 4 iterations, 2 of them without attack, and a bank of 8 trajectories."""
    recipe = RECIPES["shapes/circle-advunlearn"]()
    method = recipe.method
    if not isinstance(method, AdvUnlearn):
        raise TypeError(f"expected AdvUnlearn in the recipe, found {type(method).__name__}")
    small = replace(
        method,
        train=replace(method.train, iterations=4),
        bank=replace(method.bank, limit=8),
        adversary=replace(method.adversary, warmup=2),
    )
    return replace(recipe, method=small)


def import_all() -> None:
    """Import every module of this package, so that no import runs while something is counted."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)


def train(pipe: Any, recipe: Recipe) -> None:
    """Train by a recipe in a temporary folder, without a bank of earlier runs."""
    with tempfile.TemporaryDirectory() as folder:
        run_recipe(recipe, pipe, Path(folder) / "encoder", progress=False)


def judge(pipe: Any, encoder: Defence) -> None:
    """Evaluate an encoder with the suite ``quick`` on two prompts of each kind."""
    benchmark = ShapesBenchmark("circle", n=2, n_kept=2, n_renders=2, n_probes=2, suite="quick")
    with tempfile.TemporaryDirectory() as folder:
        evaluate(pipe, encoder, benchmark, out=Path(folder), config=EvaluationConfig(chunk=2, checks=2))


def measured() -> dict[str, Ways]:
    """Return the counted entries of the four calls.

    The encoder is loaded once before, so that the first hash of its files is not counted.
    """
    import_all()
    pipe, recipe = embedded_pipeline(), small_recipe()
    encoder = RobustEncoder.from_pretrained("shapes/circle")
    found = {
        "from_pretrained": ways_of(lambda: RobustEncoder.from_pretrained("shapes/circle")),
        "attach": ways_of(lambda: encoder.attach(pipe)),
    }
    encoder.detach(pipe)
    found["run_recipe"] = ways_of(lambda: train(pipe, recipe))
    found["evaluate"] = ways_of(lambda: judge(pipe, encoder))
    return found


def shown(file: str) -> str:
    """Return the name of a file with the name of its folder."""
    return "/".join(Path(file).parts[-2:])


def main(out: Path) -> None:
    """Measure, write and print the counts of each call, with its most frequent changes of file."""
    torch.set_num_threads(1)
    found = measured()
    write_json(out, {name: asdict(ways.counts()) for name, ways in found.items()})
    for name, ways in found.items():
        sys.stdout.write(f"{name}: {ways.counts()}\n")
        for (left, entered), n in ways.pairs.most_common(SHOWN):
            sys.stdout.write(f"{n:8,} {shown(left)} -> {shown(entered)}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected ways.py OUT")
    main(Path(sys.argv[1]))
