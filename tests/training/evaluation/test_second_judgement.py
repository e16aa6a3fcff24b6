"""A finished evaluation judged again: the same detector says the same, a stricter one less, and nothing is drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import pytest
from plans import HalfDetector, find, make_plan, prompt_set, run
from torch import Tensor

from robust_encoders.errors import IntegrityError
from robust_encoders.training.attacks import NoAttack, RandomPrefix
from robust_encoders.training.detectors.agreement import Agreement
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.judged_pictures import read_pictures
from robust_encoders.training.evaluation.recorded import chunks_of, recorded_attacks, recorded_unattacked
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.evaluation.second_judgement import judge_again, undrawn
from robust_encoders.training.evaluation.single_detectors import by_detector, singles_of
from robust_encoders.training.evaluation.winners import keep_winners
from robust_encoders.training.evaluation.worst_case import union
from robust_encoders.training.metrics.paired_tests import paired_verdicts
from robust_encoders.training.metrics.rates import detect
from robust_encoders.training.protocols import Attack
from robust_encoders.training.reports.paired import paired_tables
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.types import AttackResult, AttackUse, Candidate, Case, Verdict


class Contrast:
    """Finds the concept in pictures whose values differ much."""

    name, version = "contrast", "1"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        return images.std((1, 2, 3))


@dataclass(frozen=True)
class Asks:
    """Asks for two pictures of each case, and proposes the better text three times with another in between."""

    name: ClassVar[str] = "asks"
    tier: ClassVar[str] = "T2"
    uses: ClassVar[tuple[AttackUse, ...]] = ("queries",)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        found = []
        for case in cases:
            texts = [f"{case.prompt} star", f"{case.prompt} box"]
            margins = target.query(texts, [case, case]).tolist()
            best = texts[margins.index(max(margins))]
            candidates = tuple(Candidate("text", text, i) for i, text in enumerate((best, case.prompt, best)))
            found.append(AttackResult(candidates, queries=2, unet_calls=0))
        return found


def plan_of(pipe: Any) -> Any:
    """Return a plan with two judges, of which either finds the concept in about half of the pictures."""
    plan = make_plan(pipe)
    detector = Agreement([plan.detector, Contrast(0.0)])
    attacks: dict[str, Attack] = {"random": RandomPrefix(tokens=1, candidates=4), "asks": Asks()}
    name = prompt_set("circle/name", ["a red circle", "circle", "a blue circle", "a circle on black"])
    return replace(plan, plain=(name, plan.plain[1]), detector=detector, attacks=attacks, control=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Agreement]]:
    """A folder for one evaluation, which the first test makes, and its detector."""
    return tmp_path_factory.mktemp("made") / "run", []


@pytest.fixture
def finished(tiny_pipe: Any, made: tuple[Path, list[Agreement]], tmp_path: Path) -> tuple[Path, Agreement]:
    """A copy of a finished evaluation and its detector; half of the prompts succeed unattacked."""
    folder, detectors = made
    if not detectors:
        plan = plan_of(tiny_pipe)
        run(tiny_pipe, plan, folder)
        detectors.append(plan.detector)
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", detectors[0]


def test_everything_is_on_record(finished: tuple[Path, Agreement], tiny_pipe: Any) -> None:
    folder, detector = finished
    kept = recorded_unattacked(folder)
    assert {name: len(rows) for name, (_, rows) in kept.items()} == {
        "circle/name": 4,
        "circle/seen": 2,
        "circle/kept": 3,
    }
    for attack in recorded_attacks(folder):
        for verdict in attack.verdicts:
            plain = verdict.unattacked
            assert plain is not None
            assert (verdict.before, plain.text) == (plain.hit, verdict.prompt)
            assert (verdict.tries, verdict.pictures == ()) == ((0, True) if verdict.before else (verdict.tries, False))
            for one in verdict.pictures:
                image = read_pictures(chunks_of(folder), [one])
                assert {name: margin.tolist()[0] for name, margin in detector.margins(image).items()} == one.margins
                assert [one.hit] == detect(detector, image)
                assert tiny_pipe.tokenizer(one.text).input_ids == list(one.ids)
                assert one.seed == verdict.seed
    (asks,) = (one for one in recorded_attacks(folder) if one.label == "asks")
    searched = [verdict for verdict in asks.verdicts if not verdict.before]
    assert searched
    for verdict in searched:
        assert [one.queried for one in verdict.pictures[:2]] == [True, True]
        assert verdict.tries == len({one.picture for one in verdict.pictures})
        assert verdict.unet_calls == verdict.tries * 4  # two steps with guidance for each picture


def test_calls_of_cases_add_up_to_those_of_the_attack(finished: tuple[Path, Agreement]) -> None:
    folder, _ = finished
    evaluation = Evaluation.read(folder)
    for attack in recorded_attacks(folder):
        calls = find(evaluation, "asr_any", attack.label).unet_calls
        assert calls == sum(verdict.unet_calls or 0 for verdict in attack.verdicts)


def test_the_same_detector_says_the_same_to_the_last_digit(finished: tuple[Path, Agreement], tmp_path: Path) -> None:
    folder, detector = finished
    again = judge_again(folder, detector)
    for attack in recorded_attacks(folder):
        assert tuple(again.verdicts[attack.label]) == attack.verdicts
    old = {(r.metric, r.prompt_set, str(r.settings.get("attack"))): r for r in again.before.results}
    for result in again.after.results:
        before = old[result.metric, result.prompt_set, str(result.settings.get("attack"))]
        assert (result.value, result.n, result.interval) == (before.value, before.n, before.interval)
        assert result.settings["judged_again"].get("undrawn", 0) == 0
        assert singles_of(result).keys() == singles_of(before).keys() == {"half", "contrast"} or result.metric in (
            "asr_last",
            "asr_gained",
        )
    again.write(tmp_path / "again")
    stored = StoredEvaluation.read(tmp_path / "again")
    assert set(stored.verdicts) == {"random", "asks"}
    assert stored.worst_case == StoredEvaluation.read(folder).worst_case
    with pytest.raises(FileExistsError, match="choose another one"):
        again.write(tmp_path / "again")


def test_a_stricter_detector_finds_a_subset_and_says_what_was_never_drawn(finished: tuple[Path, Agreement]) -> None:
    folder, detector = finished
    margins = sorted(
        one.margins["half"] for attack in recorded_attacks(folder) for v in attack.verdicts for one in v.pictures
    )
    half = detector.members[0]
    strict = HalfDetector(half.threshold + margins[-1] / 2 if margins[-1] > 0 else half.threshold + 0.01)
    again = judge_again(folder, strict)
    for attack in recorded_attacks(folder):
        new = again.verdicts[attack.label]
        for before, after in zip(attack.verdicts, new, strict=True):
            assert before.any or not after.any
            drawn = {one.place for one in after.pictures if not one.queried}
            assert undrawn(after) == (not after.any and len(drawn) < (after.candidates or 0))
        result = next(
            r for r in again.after.results if r.metric == "asr_any" and r.settings["attack"]["label"] == attack.label
        )
        assert result.detector == "half"
        assert result.settings["judged_again"]["undrawn"] == sum(map(undrawn, new))
        assert paired_verdicts(attack.verdicts, new).only_second == 0
    assert sum(v.any for rows in again.verdicts.values() for v in rows) < sum(
        v.any for attack in recorded_attacks(folder) for v in attack.verdicts
    )


def test_without_an_attack_no_picture_is_missing(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = replace(make_plan(tiny_pipe, control=None), attacks={"none": NoAttack()})
    run(tiny_pipe, plan, tmp_path)
    again = judge_again(tmp_path, HalfDetector(2.0))
    assert find(again.before, "asr_any", "none").value > 0
    for metric in ("asr_any", "worst_case"):
        (result,) = (one for one in again.after.results if one.metric == metric)
        assert (result.value, result.settings["judged_again"]["undrawn"]) == (0, 0)


def test_unions_and_rates_of_single_detectors_follow_from_the_verdicts(finished: tuple[Path, Agreement]) -> None:
    folder, _ = finished
    evaluation = Evaluation.read(folder)
    verdicts = {attack.label: attack.verdicts for attack in recorded_attacks(folder)}
    worst = find(evaluation, "worst_case", "worst_case")
    assert worst.value == sum(union(verdicts, verdicts)) / 4
    for label, rows in verdicts.items():
        result = find(evaluation, "asr_any", label)
        for name, single in singles_of(result).items():
            # Naively: the case is lost if any margin on record is at 0 or above.
            won = [
                any(p.margins[name] >= 0 for p in (*v.pictures, *([v.unattacked] if v.unattacked else [])))
                for v in rows
            ]
            assert single.value == sum(won) / len(won) >= result.value
            assert by_detector(rows)[name] == won
            assert (single.detector, single.n) == (name, len(won))
            assert "singles" not in single.settings


def test_pictures_that_are_missing_or_changed_are_refused(finished: tuple[Path, Agreement], tmp_path: Path) -> None:
    folder, detector = finished
    archive = next(path for path in sorted(chunks_of(folder).glob("attack-random-*.zip")))
    with ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    names = sorted(files)
    with ZipFile(archive, "w") as opened:  # the first picture in the second one's place
        for name in names:
            opened.writestr(name, files[names[0]] if name == names[1] else files[name])
    with pytest.raises(IntegrityError, match=rf"found 1 changed \({archive.stem}/{names[1]} with hash"):
        judge_again(folder, detector)
    archive.unlink()
    with pytest.raises(IntegrityError, match=f"expected the judged pictures .* found {len(names)} missing"):
        judge_again(folder, detector)


def test_an_evaluation_of_version_1_kept_no_pictures_and_can_still_be_read(
    finished: tuple[Path, Agreement], tmp_path: Path
) -> None:
    folder, detector = finished
    fields = ("index", "prompt", "seed", "before", "any", "last", "step", "text")
    for path in (folder / "cells").glob("attack-*.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        old = [{key: verdict[key] for key in fields} for verdict in stored["value"]["verdicts"]]
        assert [Verdict(**row) for row in old] == [Verdict.from_record(row) for row in old]
        stored["value"]["verdicts"] = old
        path.write_text(json.dumps(stored), encoding="utf-8")
    stored_evaluation = StoredEvaluation.read(folder)
    assert set(stored_evaluation.verdicts) == {"random", "asks"}
    assert by_detector(stored_evaluation.verdicts["random"]) == {}
    with pytest.raises(IntegrityError, match="none of asks, random: suite version 1 kept no pictures; evaluate again"):
        judge_again(folder, detector)


def test_a_small_copy_holds_the_best_picture_of_each_case(finished: tuple[Path, Agreement], tmp_path: Path) -> None:
    folder, detector = finished
    keep_winners(folder, tmp_path / "small")
    assert (tmp_path / "small" / RESULTS_NAME).read_bytes() == (folder / RESULTS_NAME).read_bytes()
    again = judge_again(tmp_path / "small", detector)
    assert again.kept == "best"
    for attack in recorded_attacks(folder):
        new = again.verdicts[attack.label]
        assert [v.any for v in new] == [v.any for v in attack.verdicts]
        for before, after in zip(attack.verdicts, new, strict=True):
            assert len(after.pictures) <= 1
            if before.best is not None:
                own = [one for one in before.pictures if not one.queried]
                expected = next((one for one in own if one.hit), max(own, key=lambda one: min(one.margins.values())))
                assert after.pictures == (expected,) == (before.pictures[before.best],)
    assert "asr_last" not in {result.metric for result in again.after.results}
    names = {name for path in chunks_of(tmp_path / "small").iterdir() for name in ZipFile(path).namelist()}
    every = {name for path in chunks_of(folder).glob("*.zip") for name in ZipFile(path).namelist()}
    assert names < every
    assert not list(chunks_of(tmp_path / "small").glob("*kept*"))
    with pytest.raises(FileExistsError, match="choose another"):
        keep_winners(folder, tmp_path / "small")


def test_a_resumed_run_keeps_its_pictures_and_another_folder_lends_them(
    finished: tuple[Path, Agreement], tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    plan = plan_of(tiny_pipe)
    before = {path.name: path.read_bytes() for path in chunks_of(folder).glob("*.zip")}

    def drawn(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("a picture was drawn again")

    monkeypatch.setattr("robust_encoders.training.evaluation.jobs.draw", drawn)
    monkeypatch.setattr("robust_encoders.training.evaluation.jobs.draw_candidates", drawn)
    monkeypatch.setattr(RandomPrefix, "run", drawn)
    run(tiny_pipe, plan, folder)
    lent = run(tiny_pipe, plan, tmp_path / "lent", reuse=(folder,))
    assert {path.name: path.read_bytes() for path in chunks_of(folder).glob("*.zip")} == before
    assert {path.name: path.read_bytes() for path in chunks_of(tmp_path / "lent").glob("*.zip")} == before
    assert lent.records() == Evaluation.read(folder).records()
    with pytest.raises(AssertionError, match="drawn again"):  # another seed is another row
        run(tiny_pipe, plan, tmp_path / "other", reuse=(folder,), seed=1)


def test_equal_pictures_give_an_equal_archive(tiny_pipe: Any, finished: tuple[Path, Agreement], tmp_path: Path) -> None:
    folder, _ = finished
    run(tiny_pipe, plan_of(tiny_pipe), tmp_path / "second")
    for path in chunks_of(folder).glob("*.zip"):
        assert (chunks_of(tmp_path / "second") / path.name).read_bytes() == path.read_bytes()


def test_results_of_two_judges_are_not_paired(finished: tuple[Path, Agreement], tmp_path: Path) -> None:
    folder, detector = finished
    judge_again(folder, detector.members[0]).write(tmp_path / "one")
    judge_again(folder, detector).write(tmp_path / "both")
    assert paired_tables([tmp_path / "one", tmp_path / "both"]) == ""


def test_records_survive_json(finished: tuple[Path, Agreement]) -> None:
    folder, _ = finished
    for attack in recorded_attacks(folder):
        for verdict in attack.verdicts:
            assert Verdict.from_record(json.loads(json.dumps(asdict(verdict)))) == verdict
