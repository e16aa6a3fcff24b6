"""``robust-encoders judge`` and ``results --keep-winners``: from the kept pictures of a run, without drawing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from plans import HalfDetector, make_plan, run

from robust_encoders.cli.main import main
from robust_encoders.training.attacks import RandomPrefix
from robust_encoders.training.cli import judge as cli_judge
from robust_encoders.training.detectors import DETECTORS
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.suite import SUITE_VERSION


@pytest.fixture
def finished(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, HalfDetector]:
    """A finished evaluation of a plan made by hand, and a registered detector that is a little stricter."""
    plan = make_plan(tiny_pipe, control=None)
    run(tiny_pipe, replace(plan, attacks={"random": RandomPrefix(tokens=1, candidates=2)}), tmp_path / "run")
    stricter = HalfDetector(plan.detector.threshold + 1e-3)
    monkeypatch.setitem(DETECTORS, "stricter", lambda: stricter)
    return tmp_path / "run", stricter


def test_the_new_rates_stand_beside_the_old_ones(
    finished: tuple[Path, HalfDetector], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, stricter = finished
    recorded = (folder / "results.json").read_bytes()
    assert main(["judge", str(folder), "--detector", "stricter"]) == 0
    out = capsys.readouterr().out
    assert f"judged again by half, suite version {SUITE_VERSION}" in out
    assert f"pictures of {folder} in " in out
    assert "Set: every picture that the evaluation judged." in out
    assert (folder / "results.json").read_bytes() == recorded
    found = Evaluation.read(folder / "judged-stricter")
    old = {(r.metric, r.prompt_set): r for r in Evaluation.read(folder).results}
    assert {r.metric for r in found.results} >= {"pre_asr", "asr_any", "worst_case"}
    for result in found.results:
        assert result.threshold == stricter.threshold
        assert result.settings["judged_again"]["before"] == "half"
        if result.metric == "pre_asr":
            assert result.value <= old[result.metric, result.prompt_set].value
            row = f"| {100 * result.value:.1f} ["
            assert row in out
    assert main(["results", str(folder / "judged-stricter")]) == 0
    assert "found results.json; choose another folder" in refused(
        capsys_cleared(capsys), 2, "judge", str(folder), "--detector", "stricter"
    )


def capsys_cleared(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    capsys.readouterr()
    return capsys


def test_of_a_small_copy_the_best_pictures_are_judged(
    finished: tuple[Path, HalfDetector], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    small = tmp_path / "small"
    assert main(["results", str(folder), "--keep-winners", str(small)]) == 0
    capsys.readouterr()
    assert "choose another" in refused(capsys, 2, "results", str(folder), "--keep-winners", str(small))
    assert main(["judge", str(small), "--detector", "stricter", "--out", str(tmp_path / "new")]) == 0
    assert "Set: of each attack the picture of the first success" in capsys.readouterr().out
    part = json.loads((tmp_path / "new" / "cells" / "attack-random.json").read_text(encoding="utf-8"))
    assert part["value"]["pictures"] == "best"


def test_what_cannot_be_judged_is_refused(
    finished: tuple[Path, HalfDetector], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    assert "expected a detector, found 'nobody'" in refused(capsys, 2, "judge", str(folder), "--detector", "nobody")
    assert "expected a benchmark" in refused(
        capsys, 2, "judge", str(folder), "--detector", "stricter", "--benchmark", "nothing"
    )
    assert "found no" in refused(capsys, 2, "judge", str(tmp_path / "none"), "--detector", "stricter")
    for path in (folder / "cells" / "chunks").glob("attack-*.zip"):
        path.unlink()
    said = refused(capsys, 1, "judge", str(folder), "--detector", "stricter")
    assert "evaluate again into an empty folder" in said
    assert not (folder / "judged-stricter").exists()


def test_an_evaluation_of_a_benchmark_knows_its_detectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def judged(folder: Path, detector: Any) -> Any:
        asked.append(detector)
        raise ValueError("enough")

    monkeypatch.setattr(cli_judge, "judge_again", judged)
    Evaluation("esd", "red", (), benchmark="shapes").write(tmp_path / "results.json")
    for name in ("shapes", ""):
        options = ["--benchmark", name] if name else []
        with pytest.raises(ValueError, match="enough"):
            main(["judge", str(tmp_path), "--detector", "shapes_judge", *options])
    assert [detector.name for detector in asked] == ["shapes-judge/red"] * 2
    Evaluation("esd", "red", ()).write(tmp_path / "results.json")
    assert "defaults for all settings" in refused(capsys, 2, "judge", str(tmp_path), "--detector", "shapes_judge")
