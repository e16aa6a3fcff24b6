"""What a user sees of a long run: its length before it begins, a first look with --quick, the way on after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robust_encoders import RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.cli.evaluate_options import read_options
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES

# A shell lets programs in the background ignore Ctrl-C, and what these start ignores it, too.
SHELL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from robust_encoders.cli.main import main; raise SystemExit(main())"
)
TINY = ["--bank.limit", "3", "--bank.steps", "2"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Recipes that would have been trained."""
    recipes: list[Recipe] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *_, **__: recipes.append(recipe))
    return recipes


def test_a_bank_says_its_length_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--train.iterations", "5", *TINY]
    assert main(["train", "shapes/circle-esd", "--out", str(tmp_path / "out"), *short]) == 0
    said = capsys.readouterr().err
    sizes = re.findall(r"^bank: (\d+) trajectories of 2 steps, (\d+) UNet calls, about \d+ \w+$", said, re.MULTILINE)
    assert sizes == [("3", "18"), ("3", "12")], "those of the concept hold the anchor's predictions, too"
    assert said.index("bank: 3 traj") < said.index("bank: 6 of 6") < said.index("train: 5 of 5")


def test_a_run_of_one_iteration_runs_one_trajectory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--train.iterations", "1", "--bank.steps", "2"]
    assert main(["train", "shapes/circle-esd", "--out", str(tmp_path / "out"), *short]) == 0
    assert "bank: 1 trajectories of 2 steps" in capsys.readouterr().err
    recorded: Any = RobustEncoder.from_pretrained(tmp_path / "out").manifest.method
    assert recorded["bank"]["limit"] == 128, "the settings are recorded as they were given"


def test_quick_is_a_tenth_and_says_so_in_the_name(trained: list[Recipe], tmp_path: Path) -> None:
    main(["train", "shapes/circle-advunlearn", "--quick", "--out", str(tmp_path / "out")])
    whole: Any = RECIPES["shapes/circle-advunlearn"]().method
    method: Any = trained[0].method
    assert trained[0].name == "shapes/circle-advunlearn-quick"
    assert method.train.iterations == whole.train.iterations // 10
    assert method.adversary.warmup == whole.adversary.warmup // 10
    assert method.retained == whole.retained


def test_options_beside_quick_win(trained: list[Recipe], tmp_path: Path) -> None:
    main(
        ["train", "advunlearn", "--concept", "star", "--quick", "--train.iterations", "7", "--out", str(tmp_path / "o")]
    )
    method: Any = trained[0].method
    assert trained[0].name == "shapes/star-advunlearn-quick"
    assert method.train.iterations == 7
    assert method.bank.limit == 16


def test_a_quick_run_of_a_file_of_settings_is_the_same_run(trained: list[Recipe], tmp_path: Path) -> None:
    file, out = str(tmp_path / "run.json"), ["--out", str(tmp_path / "out")]
    main(["train", "shapes/circle-esd", "--quick", "--write-config", file])
    main(["train", "shapes/circle-esd", "--quick", *out])
    main(["train", "--config", file, *out])
    assert trained[0] == trained[1]
    main(["train", "--config", file, "--quick", *out])
    assert trained[2].name == "shapes/circle-esd-quick"


def test_a_quick_evaluation_is_small_and_options_win() -> None:
    options, _ = read_options(["--quick", "--out", "out", "--n", "12"])
    settings = options.settings
    assert (settings.suite, settings.n, settings.n_kept, options.config.checks) == ("quick", 12, 16, 0)
    whole, _ = read_options(["--out", "out"])
    assert (whole.settings.suite, whole.settings.n, whole.config) == ("standard", 200, EvaluationConfig())
    prompts, _ = read_options(["--quick", "--out", "out", "--prompts", "p.csv", "--kept", "k.csv", "--base", "b"])
    assert (prompts.settings.suite, prompts.settings.n) == ("quick", 8)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SHELL, *arguments], stderr=subprocess.PIPE, text=True)


def interrupted(arguments: list[str], after: str) -> list[str]:
    """Return what a command writes to stderr, with Ctrl-C after the first line that starts with ``after``."""
    said = []
    with start(arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            if line.startswith(after):
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 130, said
    return said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_a_stopped_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(out: str) -> list[str]:
        short = ["--train.iterations", "40", "--every", "5", *TINY]  # a busy machine is slow to send the signal
        return ["train", "shapes/circle-esd", "--out", str(tmp_path / out), *short]

    said = interrupted(command("stopped"), "train: ")
    out = tmp_path / "stopped"
    way_on = f"run the same command again to go on: trajectories and checkpoints are kept in {out}.work"
    assert said[-1] == f"robust-encoders: stopped; {way_on}"
    assert "Traceback" not in "\n".join(said)
    assert not out.exists()
    assert main(command("stopped")) == 0
    assert "bank: " not in capsys.readouterr().err, "the trajectories were kept"
    assert out.is_dir()
