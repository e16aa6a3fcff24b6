"""Trackers: refused at once if they cannot be used, told everything, and never the end of a run."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.tracking
import accelerate.utils
import pytest
import torch
from accelerate.tracking import GeneralTracker

from robust_encoders import Concept
from robust_encoders.training import trackers as module
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import ESD, RACE
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trackers import TrackerError, Trackers, TrackingConfig, flat, require_trackers
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig

CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
SHORT = ESD(
    retain=RetainConfig(prompts=("a star", "a cross"), batch=2),
    train=TrainingConfig(iterations=3, rate=1e-2, schedule="cosine"),
    bank=BankConfig(steps=2),
)
RECIPE = Recipe(name="tiny/circle", concept=CIRCLE, method=SHORT, base="tiny")


class Kept(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """A tracker of the user's own, which may fail at chosen calls."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self, fails: Callable[[str, int], bool] = lambda call, step: False) -> None:
        super().__init__()
        self.fails, self.calls, self.config = fails, list[str](), dict[str, Any]()
        self.steps: dict[int, dict[str, float]] = {}

    @property
    def tracker(self) -> Any:
        return self

    def _called(self, call: str, step: int = 0) -> None:
        self.calls.append(call)
        if self.fails(call, step):
            raise ConnectionError(f"no route to host at {call}")

    def start(self) -> None:
        self._called("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._called("settings")
        self.config |= values

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        assert step is not None
        self._called("log", step)
        assert step not in self.steps
        self.steps[step] = values

    def finish(self) -> None:
        self._called("finish")


def run(pipe: Any, out: Path, *trackers: str | GeneralTracker, recipe: Recipe = RECIPE, **options: Any) -> Any:
    config = TrackingConfig(trackers=trackers, folder=out.parent / "logs")
    return run_recipe(recipe, pipe, out, trackers=config, progress=False, **options)


def test_a_tracker_gets_the_settings_and_the_losses_of_every_step(tiny_pipe: Any, tmp_path: Path) -> None:
    tracker = Kept()
    encoder = run(tiny_pipe, tmp_path / "out", tracker)
    assert tracker.calls == ["start", "settings", "log", "log", "log", "finish"]
    assert list(tracker.steps) == [1, 2, 3]
    losses = encoder.manifest.recipe["run"]["losses"]
    names = {"train/loss", "train/learning_rate", *(f"train/loss_{name}" for name in losses)}
    assert all(set(values) == names for values in tracker.steps.values())
    rates = [values["train/learning_rate"] for values in tracker.steps.values()]
    assert rates == [SHORT.train.rate_at(i) for i in range(3)]
    parts = [[values[f"train/loss_{name}"] for values in tracker.steps.values()] for name in losses]
    assert [[float(f"{value:.4g}") for value in part] for part in parts] == [list(curve) for curve in losses.values()]
    assert tracker.config["name"] == "tiny/circle"
    assert tracker.config["method.train.iterations"] == 3
    assert tracker.config["method.train.clip"] == "none"
    assert tracker.config["method.retain.prompts"] == '["a star", "a cross"]'
    assert {type(value) for value in tracker.config.values()} <= {bool, int, float, str}


def test_the_loss_of_a_step_is_the_one_that_is_minimised(tiny_pipe: Any, tmp_path: Path) -> None:
    tracker = Kept()
    retain = replace(SHORT.retain, weight=0.25)
    run(tiny_pipe, tmp_path / "out", tracker, recipe=replace(RECIPE, method=replace(SHORT, retain=retain)))
    for values in tracker.steps.values():
        whole = values["train/loss_unlearn"] + 0.25 * values["train/loss_retain"]
        assert values["train/loss"] == pytest.approx(whole, rel=1e-5)


def test_trackers_change_nothing(tiny_pipe: Any, tmp_path: Path) -> None:
    plain = run_recipe(RECIPE, tiny_pipe, tmp_path / "plain", progress=False)
    tracked = run(tiny_pipe, tmp_path / "tracked", Kept(), Kept(lambda call, step: call == "log"))
    assert tracked.content_sha256 == plain.content_sha256


@pytest.mark.parametrize("call", ["settings", "log", "finish"])
def test_a_failure_in_the_middle_is_one_warning_and_the_run_ends_well(
    tiny_pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    failing, other = Kept(lambda found, step: found == call), Kept()
    with caplog.at_level(logging.WARNING):
        run(tiny_pipe, tmp_path / "out", failing, other)
    assert (tmp_path / "out" / "robust_encoder.json").is_file()
    assert list(other.steps) == [1, 2, 3]
    warned = [record.getMessage() for record in caplog.records if "no route to host" in record.getMessage()]
    assert len(warned) == 1
    assert "the tracker kept failed (ConnectionError" in warned[0]
    assert failing.calls[-1] == "finish"
    lost = [record.getMessage() for record in caplog.records if "did not get" in record.getMessage()]
    assert bool(lost) is (call != "finish")


def test_a_failed_tracker_rests_and_gets_later_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now)}))
    tracker = Kept(lambda call, step: step == 2)
    with TrackingConfig(trackers=(tracker,)).started("run") as running:
        for step in range(1, 6):
            running.log({"loss": 1.0}, step)
            now += 25.0
    assert list(tracker.steps) == [1, 5], "it rests for a minute after the second step"


def test_a_server_that_does_not_answer_costs_a_twentieth_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 0.0, 0

    def slow(call: str, step: int) -> bool:
        nonlocal now, asked
        if call == "log":
            now, asked = now + 120.0, asked + 1
        return call == "log"

    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now)}))
    with TrackingConfig(trackers=(Kept(slow),)).started("run") as running:
        for step in range(1, 20_001):
            running.log({"loss": 1.0}, step)
            now += 1.0
    assert asked * 120.0 <= 20_000 / 20 + 120.0


def test_a_run_that_is_stopped_closes_its_trackers(tiny_pipe: Any, tmp_path: Path) -> None:
    def stops(call: str, step: int) -> bool:
        if step == 2:
            raise KeyboardInterrupt
        return False

    tracker = Kept(stops)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_pipe, tmp_path / "out", tracker, every=1)
    assert tracker.calls[-1] == "finish"
    again = Kept()
    run(tiny_pipe, tmp_path / "out", again, every=1)
    assert list(again.steps) == [2, 3], "a resumed run continues the numbers of the steps"


def test_the_two_phases_of_race_have_names_and_steps_of_their_own(tiny_pipe: Any, tmp_path: Path) -> None:
    start = replace(SHORT, component="unet", retain=replace(SHORT.retain, weight=0.0))
    method = RACE(start=start, train=replace(SHORT.train, iterations=2))
    tracker = Kept()
    run(tiny_pipe, tmp_path / "out", tracker, recipe=replace(RECIPE, method=method))
    phases = [{name.partition("/")[0] for name in values} for values in tracker.steps.values()]
    assert list(tracker.steps) == [1, 2, 3, 4, 5]
    assert phases == [{"start"}] * 3 + [{"train"}] * 2


def test_values_that_are_not_finite_are_left_out() -> None:
    tracker = Kept()
    with TrackingConfig(trackers=(tracker,)).started("run") as running:
        running.log({"a": math.nan, "b": math.inf, "c": 1.0}, 1)
    assert tracker.steps == {1: {"train/c": 1.0}}


def test_only_the_main_process_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "current", classmethod(lambda cls: cls(index=1, count=2)))
    tracker = Kept()
    with TrackingConfig(trackers=(tracker,)).started("run") as running:
        running.settings(RECIPE)
        running.log({"loss": 1.0}, 1)
        assert running == Trackers()
    assert tracker.calls == []


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        (("wndb",), "found 'wndb'; did you mean 'wandb'"),
        (("nothing like it",), "known: .*tensorboard"),
        (("Tensorboard",), "did you mean 'tensorboard'"),
        (("",), "found ''"),
        (("all",), "found 'all'"),
        ((3,), "GeneralTracker, found int"),
        ((Kept,), "GeneralTracker, found type"),
    ],
)
def test_what_is_no_tracker_is_refused(trackers: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TrackerError, match=message):
        require_trackers(trackers)


@pytest.mark.parametrize("name", [str(name) for name in accelerate.tracking.LOGGER_TYPE_TO_CLASS])
def test_every_tracker_that_is_not_installed_is_refused_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.utils, f"is_{name}_available", lambda: False)
    with pytest.raises(TrackerError, match=rf"expected the package of the tracker {name}.*`pip install {name}`"):
        require_trackers((name,))
    monkeypatch.setattr(accelerate.utils, f"is_{name}_available", lambda: True)
    require_trackers((name,))
    with pytest.raises(TrackerError, match="expected each tracker once"):
        require_trackers((name, name))


def test_a_tracker_that_does_not_start_ends_the_run_before_it_begins(tiny_pipe: Any, tmp_path: Path) -> None:
    first, second = Kept(), Kept(lambda call, step: call == "start")
    with pytest.raises(TrackerError, match=r"expected the tracker kept to start, found ConnectionError: no route"):
        run(tiny_pipe, tmp_path / "out", first, second)
    assert first.calls == ["start", "finish"]
    assert not (tmp_path / "out.work").exists()


def test_long_settings_are_told_by_length_and_hash() -> None:
    values = flat({"a": {"b": [f"caption {i}" for i in range(99)], "c": "x" * 999}, "d": None, "e": True, "f": []})
    assert values["a.b"] == flat({"b": [f"caption {i}" for i in range(99)]})["b"]
    assert str(values["a.b"]).startswith("99 values, sha256 ")
    assert str(values["a.c"]).startswith("999 characters, sha256 ")
    assert (values["d"], values["e"], values["f"]) == ("none", True, "[]")


WANDB = '''
"""Stands for wandb without a network: writes what it is told, as its offline mode does."""
import json, os, pathlib
class Run:
    def __init__(self, **given):
        if os.environ.get("WANDB_MODE") != "offline":
            raise RuntimeError("api_key not configured (no-tty)")
        self.given, self.last, self.lines = given, -1, []
    def log(self, values, step=None):
        assert step > self.last, "wandb drops a step that is not larger than the last"
        self.last = step
        self.lines.append({"step": step, **values})
    def finish(self):
        text = json.dumps({"given": self.given, "config": config.values, "lines": self.lines})
        pathlib.Path("offline-run.json").write_text(text)
class Config:
    values = {}
    def update(self, values, allow_val_change=False):
        assert all(isinstance(value, (bool, int, float, str, type(None))) for value in values.values())
        self.values.update(values)
config = Config()
def init(**given):
    return Run(**given)
'''


@pytest.fixture
def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that stands for wandb, found as an installed one is."""
    site = tmp_path / "site"
    (site / "wandb-99.0.dist-info").mkdir(parents=True)
    (site / "wandb-99.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 99.0\n")
    (site / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("wandb", None)


def test_wandb_offline_gets_project_run_settings_and_steps(
    fake_wandb: None, tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tiny_pipe, tmp_path / "my-run", "wandb")
    found = json.loads((tmp_path / "offline-run.json").read_text())
    assert found["given"] == {"project": "robust-encoders", "name": "my-run"}
    assert [line["step"] for line in found["lines"]] == [1, 2, 3]
    assert found["config"]["method.name"] == "esd"


def test_wandb_without_a_login_is_said_before_anything_runs(
    fake_wandb: None, tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    began = time.monotonic()
    with pytest.raises(TrackerError, match=r"expected the tracker wandb to start.*api_key not configured.*mend its"):
        run(tiny_pipe, tmp_path / "my-run", "wandb")
    assert time.monotonic() - began < 5
    assert not (tmp_path / "my-run.work").exists()


class Writer:
    """Stands for TensorBoard's writer, with its demands on settings; the package need not be installed."""

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = Path(folder), list[tuple[str, float, int]](), False
        written.append(self)

    def add_hparams(self, values: dict[str, Any], metric_dict: dict[str, float]) -> None:
        assert all(isinstance(value, (bool, int, float, str, torch.Tensor)) for value in values.values())

    def add_scalar(self, name: str, value: float, global_step: int) -> None:
        self.scalars.append((name, value, global_step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


written: list[Writer] = []


def test_tensorboard_gets_a_folder_for_each_run(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("Fake", (), {"SummaryWriter": Writer}))
    monkeypatch.setattr("torch.utils.tensorboard", type("Fake", (), {"SummaryWriter": Writer}), raising=False)
    monkeypatch.setattr(accelerate.utils, "is_tensorboard_available", lambda: True)
    written.clear()
    for name in ("one", "two"):
        run(tiny_pipe, tmp_path / name, "tensorboard")
    assert [writer.folder for writer in written] == [tmp_path / "logs" / "one", tmp_path / "logs" / "two"]
    assert all(writer.closed for writer in written)
    losses = [(value, step) for name, value, step in written[0].scalars if name == "train/loss"]
    assert [step for _, step in losses] == [1, 2, 3]


def test_tensorboards_own_files_hold_the_losses(tiny_pipe: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny_pipe, tmp_path / "one", "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs" / "one"))
    events.Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
