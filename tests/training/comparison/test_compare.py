"""``robust-encoders compare`` on a tiny base: all methods, stop and resume, reuse, failures, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from evaluations import set_version
from tiny_comparison import Broken, Swap, TinyBenchmark, install, recipes
from tiny_training import RETAIN

from robust_encoders.cli.main import main
from robust_encoders.training.comparison import run, training_key
from robust_encoders.training.comparison.choose import MethodChoice
from robust_encoders.training.comparison.report import ComparisonReport
from robust_encoders.training.comparison.reuse import Conditions
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.methods import METHODS
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.reports.html.page import write_report
from robust_encoders.training.worlds import BASES

Maker = Callable[..., Any]


def arguments(out: Path, *more: str) -> list[str]:
    return ["compare", "--base", "tiny", "--concept", "circle", "--out", str(out), *more]


def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pages of HTML and their figures, which take seconds."""
    monkeypatch.setattr(run, "write_report", lambda folder, evaluation: folder)
    monkeypatch.setattr(ComparisonReport, "html", lambda self: "")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a finished comparison is kept for all tests that begin with one."""
    return tmp_path_factory.mktemp("kept") / "out"


@pytest.fixture
def finished(kept: Path, monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path) -> Path:
    """Return the folder of a comparison that has run UCE, a copy; the base and its recipes are registered."""
    without_pages(monkeypatch)
    install(monkeypatch, make_pipe)
    if not kept.exists():
        assert main(arguments(kept, "--methods", "uce")) == 0
    return Path(shutil.copytree(kept, tmp_path / "out"))


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def statuses(out: Path) -> dict[str, str]:
    return {row["row"]: row["status"] for row in report_of(out)["rows"]}


def count(monkeypatch: pytest.MonkeyPatch, name: str, stop_at: str = "") -> list[str]:
    """Return the folders for which a function of the run is called; Ctrl-C comes at one of them."""
    whole, folders = getattr(run, name), list[str]()

    def counted(*values: Any, **named: Any) -> Any:
        place: Path = named["out"] if "out" in named else values[2].parent
        if place.name == stop_at:
            raise KeyboardInterrupt
        folders.append(place.name)
        return whole(*values, **named)

    monkeypatch.setattr(run, name, counted)
    return folders


def test_all_methods_stand_in_one_report_with_a_method_of_another_package(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, make_pipe, Swap)
    out = tmp_path / "out"
    # One row's page with its figures, which take seconds, stands for those of all rows.
    monkeypatch.setattr(run, "write_report", lambda at, found: write_report(at, found) if at.name == "esd-0" else at)
    assert main(arguments(out, "--methods", "all")) == 0
    said = capsys.readouterr().out
    rows = {row["row"]: row for row in report_of(out)["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ["base-0", "esd-0", "esd-unet-0", "uce-0", "swap-0"], "finished"
    )
    assert report_of(out)["left_out"] == [name for name in METHODS if name not in ("esd", "uce", "swap")]
    evaluated = Evaluation.read(out / "esd-0")
    assert {one["label"]: one["value"] for one in rows["esd-0"]["success"]}["continuous"] == next(
        result.value for result in evaluated.results if result.metric == "asr_any"
    )
    assert rows["swap-0"]["training"] == {
        "form": "weights",
        "component": "text_encoder",
        "bytes": rows["swap-0"]["training"]["bytes"],
        "unet_calls": 0,
        "seconds": 0.5,
    }
    assert rows["esd-unet-0"]["training"]["component"] == "unet"
    assert rows["esd-0"]["training"]["unet_calls"] > 0
    assert {one["value"] for one in rows["esd-0"]["groups"]} == {"plain", "dotted"}
    for text in (said, (out / "report.md").read_text(encoding="utf-8"), (out / "report.html").read_text("utf-8")):
        assert all(name in text for name in rows)
        assert "swap-0 has no recipe for this concept" in text
    assert 'href="esd-0/report.html"' in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "esd-0" / "report.html").is_file()


def test_a_stopped_comparison_goes_on_and_runs_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_pages(monkeypatch)
    install(monkeypatch, make_pipe)
    out, command = tmp_path / "out", arguments(tmp_path / "out", "--methods", "esd,uce")
    with monkeypatch.context() as first:
        trained = count(first, "run_recipe")
        count(first, "evaluate", stop_at="esd-0")
        assert main(command) == 130
        assert trained == ["esd-0"]
    assert "finished rows, trainings and parts are kept" in capsys.readouterr().err
    assert statuses(out) == {"base-0": "finished", "esd-0": "waiting", "uce-0": "waiting"}
    assert "esd-0 has not run yet" in (out / "report.md").read_text(encoding="utf-8")
    with monkeypatch.context() as second:
        trained = count(second, "run_recipe")
        assert main(command) == 0
        assert trained == ["uce-0"]
    assert set(statuses(out).values()) == {"finished"}
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/cells/**/*") if path.is_file()}
    with monkeypatch.context() as third:
        trained = count(third, "run_recipe")
        assert main([*command, "--seeds", "0"]) == 0
        assert trained == []
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_method_that_fails_loses_no_other_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_pages(monkeypatch)
    install(monkeypatch, make_pipe, Broken)
    out, command = tmp_path / "out", arguments(tmp_path / "out", "--methods", "broken,uce")
    assert main(command) == 1
    line = "broken-0 failed in its training: expected a loss that is finite, found nan; lower the rate"
    assert line in capsys.readouterr().out
    assert statuses(out) == {"base-0": "finished", "broken-0": "failed", "uce-0": "finished"}
    assert "RuntimeError" in (out / "broken-0" / "failure.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(Broken, "erase", Swap().erase)
    assert main(command) == 0
    assert set(statuses(out).values()) == {"finished"}
    assert not (out / "broken-0" / "failure.txt").exists()


def test_numbers_of_the_same_suite_are_reused_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = finished, tmp_path / "second"
    given = [str(first / name / "results.json") for name in ("base-0", "uce-0")]
    with monkeypatch.context() as counted:
        trained, evaluated = count(counted, "run_recipe"), count(counted, "evaluate")
        assert main(arguments(second, "--methods", "uce,esd", "--reuse", *given)) == 0
        assert (trained, evaluated) == (["esd-0"], ["esd-0"])
    rows = {row["row"]: row for row in report_of(second)["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "base-0": "reused",
        "uce-0": "reused",
        "esd-0": "finished",
    }
    old = {row["row"]: row for row in report_of(first)["rows"]}
    assert rows["uce-0"]["success"] == old["uce-0"]["success"]
    assert rows["uce-0"]["training"] == old["uce-0"]["training"]
    with monkeypatch.context() as counted:  # the second time, nobody has to name them again
        evaluated = count(counted, "evaluate")
        assert main(arguments(second, "--methods", "uce")) == 0
        assert evaluated == []
    third, command = tmp_path / "third", arguments(tmp_path / "third", "--methods", "uce")
    shutil.copy(given[1], first / "circle.json")
    capsys.readouterr()
    for more, message in {
        ("--reuse", str(first / "circle.json")): "found a file of another name",
        ("--reuse", str(second / "esd-0")): "which does not: it is about tiny/circle-esd, seed 0; leave it out",
        ("--reuse", given[1], "--steps-of-attack", "2"): "uce-0/results.json, which does not: other attacks; leave",
    }.items():
        assert message in refused(capsys, 2, *command, *more)
    set_version(first / "base-0", 1)
    assert "which does not: other suite version" in refused(capsys, 2, *command, "--reuse", *given)
    found = json.loads(Path(given[1]).read_text(encoding="utf-8"))
    found["subject"]["content_sha256"] = "f" * 64
    Path(given[1]).write_text(json.dumps(found), encoding="utf-8")
    message = refused(capsys, 2, *command, "--reuse", given[1])
    assert "which does not: the encoder beside it has the tensors" in message
    assert not third.exists()


def test_rows_under_other_conditions_are_left_out(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, finished: Path
) -> None:
    install(monkeypatch, make_pipe, Swap)
    out = finished
    usual = TinyBenchmark.plan

    def changed(self: TinyBenchmark, pipe: Any, config: EvaluationConfig) -> Plan:
        """The same file of prompts with another first prompt."""
        made = usual(self, pipe, config)
        first, *others = made.plain
        cases = (replace(first.cases[0], prompt="a circle"), *first.cases[1:])
        return replace(made, plain=(replace(first, cases=cases), *others))

    monkeypatch.setattr(TinyBenchmark, "plan", changed)
    assert main(arguments(out, "--methods", "swap")) == 0
    assert statuses(out) == {"base-0": "finished", "uce-0": "waiting", "swap-0": "finished"}
    assert "uce-0 is left out: it was measured with other prompts; run it again with --methods" in (
        out / "report.md"
    ).read_text(encoding="utf-8")
    assert main(arguments(out, "--methods", "uce")) == 0
    assert statuses(out) == {"base-0": "finished", "uce-0": "finished", "swap-0": "finished"}
    (out / "uce-0" / "results.json").unlink()
    assert main(arguments(out, "--methods", "swap")) == 0
    assert statuses(out) == {"base-0": "finished", "uce-0": "waiting", "swap-0": "finished"}
    assert "uce-0 is left out: its files cannot be read" in (out / "report.md").read_text(encoding="utf-8")


def test_other_prompts_without_the_concept_are_another_condition() -> None:
    name = "prompts without the concept"
    wanted = Conditions({name: [["kept", "1"]]})
    assert not wanted.differences(Conditions({name: [["circle", "5"], ["kept", "1"]]}))
    assert not wanted.differences(Conditions({name: [["circle", "5"]]}))
    assert wanted.differences(Conditions({name: [["circle", "5"], ["kept", "2"]]})) == [name]


def test_a_method_without_a_recipe_edits_captions_as_train_does(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker
) -> None:
    install(monkeypatch, make_pipe)
    (found,), _ = MethodChoice("tiny", "circle", BASES["tiny"]()).chosen(["rece"])
    made: Any = found.recipe.method
    assert made == made.by_captions() != made.__class__.standard(RETAIN)


@pytest.mark.parametrize("concept", ["Van Gogh", "vangogh", "garbage truck", "garbage_truck"])
def test_a_published_concept_is_known_by_both_of_its_names(concept: str) -> None:
    choice, start = MethodChoice("sd1", concept), "sd1/vangogh-" if "ogh" in concept else "sd1/garbage_truck-"
    own = {name.removeprefix(start) for name in RECIPES if name.startswith(start)}
    assert len(own) > 5
    assert own <= choice.recipes.keys()
    assert choice.concept_problems() == []


def test_a_training_of_other_code_is_run_again_unless_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    out, command = finished, arguments(finished, "--methods", "uce")
    monkeypatch.setattr(training_key, "_package_sha256", lambda: "other code")
    trained = count(monkeypatch, "run_recipe")
    assert main([*command, "--keep-trained"]) == 0
    assert trained == []
    assert "uce-0: trained by an earlier content of this package" in (out / "report.md").read_text(encoding="utf-8")
    assert main(command) == 0
    assert trained == ["uce-0"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "esb"], "found 'esb'; did you mean esd"),
        (["--methods", "uce", "--modules", "unet"], "expected methods that train unet, found none under uce"),
        (["--modules", "vae"], "expected --modules of text_encoder, unet, found vae"),
        (["--concept", "square"], "expected a concept of the tiny world"),
        (["--concept", "circle, square"], "compare on one concept at a time"),
        (["--seeds", "1", "1"], "expected different seeds"),
        (["--seed", "3"], "found --seed; use --seeds"),
        (["--reuse", __file__], "found a file of another name"),
        (["--reuse", "nowhere/results.json"], "expected a finished evaluation with --reuse, found no nowhere"),
        (["--benchmark", "tyni"], "expected a benchmark, found 'tyni'"),
        (["--attacks", "randon", "--methods", "uce"], "expected attacks, found 'randon'"),
        (["--base", "no/such/base"], "expected a base among shapes, "),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    more: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    make_pipe: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, make_pipe)
    monkeypatch.setattr(run.Comparison, "run", None)
    assert message in refused(capsys, 2, *arguments(tmp_path / "out"), *more)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_comparison_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finished
    message = refused(capsys, 2, *arguments(out, "--methods", "uce", "--steps-of-attack", "2"))
    assert "steps_of_attack 1 instead of 2; choose another folder with --out" in message
    (out / "comparison.json").write_text("[]", encoding="utf-8")
    assert "found something else" in refused(capsys, 2, *arguments(out, "--methods", "uce"))


def test_a_missing_extra_is_named_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, make_pipe)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(capsys, 2, *arguments(tmp_path / "out", "--methods", "uce"))
    assert "found no matplotlib; run `pip install '.[train,eval]'`" in message
    assert not (tmp_path / "out").exists()


def test_what_a_refusal_names_works(
    monkeypatch: pytest.MonkeyPatch, make_pipe: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, make_pipe)
    monkeypatch.setattr(run.Comparison, "run", lambda self: True)
    monkeypatch.setattr(ComparisonReport, "write", lambda self, **named: None)
    out = tmp_path / "out"
    refusals = {
        "expected --modules of text_encoder, unet": (["--modules", "vae"], ["--modules", "unet", "--methods", "esd"]),
        "expected --methods of": (["--methods", ","], ["--methods", "uce"]),
        "or leave --modules out": (["--methods", "uce", "--modules", "unet"], ["--methods", "uce"]),
    }
    for message, (wrong, right) in refusals.items():
        assert message in refused(capsys, 2, *arguments(out), *wrong)
        assert main(arguments(out, *right)) == 0
        capsys.readouterr()
    for name in recipes():
        monkeypatch.delitem(RECIPES, name)
    for name in METHODS.others:
        monkeypatch.delitem(METHODS, name)
    message = refused(capsys, 2, *arguments(out, "--methods", "all"))
    assert "expected recipes tiny/circle-METHOD for --methods all, found none; name methods" in message
    assert main(arguments(out, "--methods", message.rpartition("--methods ")[2].strip())) == 0
    capsys.readouterr()
    monkeypatch.delitem(BENCHMARKS, "tiny")
    monkeypatch.setitem(BENCHMARKS, "other", TinyBenchmark)
    message = "expected a benchmark for the base tiny, found none of that name; name one with --benchmark"
    assert message in refused(capsys, 2, *arguments(out, "--methods", "uce"))
    assert main(arguments(out, "--methods", "uce", "--benchmark", "other")) == 0
