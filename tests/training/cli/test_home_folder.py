"""``~`` stands for the home directory wherever a user names a file: bash leaves it as it is in ``--out=~/x``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from plans import SAMPLING, make_plan
from tiny_training import CIRCLE, TINY
from tree import ROOT

from robust_encoders.cli.main import main
from robust_encoders.errors import HomeError, NotReadyError
from robust_encoders.hub.catalog_cards import write_cards
from robust_encoders.training.cli.evaluate_options import read_options
from robust_encoders.training.cli.parsing import expanded_paths
from robust_encoders.training.evaluation.benchmarks.prompt_sources import concept_prompts
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import FixedPlan
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.evaluation.winners import keep_winners
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.recipes.run_file import read_run_file, write_run_file
from robust_encoders.training.reports.html.page import write_report
from robust_encoders.training.workspace import Workspace

CONFIG = EvaluationConfig(sampling=SAMPLING, chunk=3, checks=0)


@pytest.fixture(autouse=True)
def user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the home directory; the working directory is another one, and stays empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert list((tmp_path / "here").iterdir()) == []


@dataclass(frozen=True)
class Inner:
    place: Path = Path("~/inner")


@dataclass(frozen=True)
class Settings:
    inner: Inner = field(default_factory=Inner)
    several: tuple[Path, ...] = (Path("~/a"), Path("b"))
    none: Path | None = None
    text: str = "~/stays"
    fixed: Path = field(default=Path("~/fixed"), init=False)


def evaluated(pipe: Any, out: str, **changes: Any) -> Evaluation:
    plan = FixedPlan(make_plan(pipe, attacks={}))
    return evaluate(pipe, None, plan, out=out, config=replace(CONFIG, **changes))


def test_no_option_takes_a_path_as_it_stands() -> None:
    sources = [path for room in ("robust_encoders", "training", "studies") for path in (ROOT / room).rglob("*.py")]
    assert [str(path) for path in sources if re.search(r"type=(?:pathlib\.)?Path\b", path.read_text("utf-8"))] == []


def test_paths_in_settings_are_expanded_at_any_depth(user_home: Path) -> None:
    found = expanded_paths(Settings())
    assert (found.inner.place, found.several) == (user_home / "inner", (user_home / "a", Path("b")))
    assert (found.none, found.text, found.fixed) == (None, "~/stays", Path("~/fixed"))


def test_without_a_home_directory_the_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(HomeError, match="pass the whole path"):
        expanded_paths(Settings())


def test_every_path_of_evaluate(user_home: Path) -> None:
    line = ["--out=~/o", "--source=~/s", "--reuse", "~/r", "~/q", "--strength=~/t", "--beside", "~/b"]
    options, _ = read_options(line)
    config = options.config
    assert (options.out, options.beside) == (user_home / "o", (user_home / "b",))
    assert (config.source, config.strength) == (user_home / "s", user_home / "t")
    assert config.reuse == (user_home / "r", user_home / "q")


def test_every_path_of_train(user_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "shapes/circle-esd", "--out=~/x", "--cache-dir=~/k", "--tracker-dir=~/t"]
    assert main([*line, "--write-config=~/one.json"]) == 0
    assert capsys.readouterr().out == f"{user_home / 'one.json'}\n"
    stated = json.loads((user_home / "one.json").read_text())
    folders = ("out", "cache_dir", "tracker_dir")
    assert [stated[name] for name in folders] == [str(user_home / name) for name in "xkt"]
    assert main(["train", "--config=~/one.json", "--write-config=~/two.json"]) == 0
    assert json.loads((user_home / "two.json").read_text()) == stated


def test_commands_on_finished_evaluations_and_cards(tiny_pipe: Any, user_home: Path) -> None:
    evaluated(tiny_pipe, "~/run")
    assert main(["results", "~/run", "--csv=~/all.csv", "--keep-winners=~/few"]) == 0
    assert main(["leaderboard", "~/run", "--out=~/board"]) == 0
    assert main(["cards", "~/cards"]) == 0
    assert (user_home / "all.csv").is_file()
    assert (user_home / "few" / RESULTS_NAME).is_file()
    assert list((user_home / "cards").glob("*.md"))


def test_an_evaluation_in_python(tiny_pipe: Any, user_home: Path) -> None:
    made = evaluated(tiny_pipe, "~/run", source="~/shared")
    assert Evaluation.read("~/run/results.json").results == made.results
    assert list((user_home / "shared").iterdir())
    evaluated(tiny_pipe, "~/again", reuse=("~/run",), source=Path("~/shared"))
    assert write_report("~/run", made, beside=["~/again"]).parent == user_home / "run"
    keep_winners("~/run", "~/few")
    assert (user_home / "few" / RESULTS_NAME).is_file()
    with pytest.raises(NotReadyError, match=re.escape(f"no {RESULTS_NAME} in {user_home / 'none'}")):
        evaluated(tiny_pipe, "~/third", strength="~/none")


def test_a_training_and_its_files_in_python(tiny_pipe: Any, user_home: Path) -> None:
    run_recipe(
        Recipe(name="t", concept=CIRCLE, method=TINY, base="tiny"),
        tiny_pipe,
        "~/trained",
        cache_dir="~/banks",
        progress=False,
    )
    assert (user_home / "trained" / "robust_encoder.json").is_file()
    assert list((user_home / "banks").iterdir())
    assert Workspace(folder=Path("~/w")).folder == user_home / "w"
    write_run_file("~/run.json", {"seed": 1})
    assert read_run_file("~/run.json") == {"seed": 1}
    assert write_cards("~/cards")[0].parent == user_home / "cards"


def test_prompts_in_the_home_directory(user_home: Path) -> None:
    (user_home / "p.csv").write_text("case_number,prompt,evaluation_seed,evaluation_guidance\n1,a ring,3,7.5\n")
    assert [case.prompt for case in concept_prompts("~/p.csv").cases] == ["a ring"]
