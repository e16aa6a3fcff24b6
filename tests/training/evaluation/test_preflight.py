"""What the end of an evaluation needs is asked before its first picture, and all that is missing is told at once."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from plans import make_plan

from robust_encoders import NotReadyError, RobustEncoder
from robust_encoders.pipeline.before_after import before_after
from robust_encoders.training.evaluation import evaluate as evaluation
from robust_encoders.training.evaluation.benchmarks import ShapesBenchmark, StableDiffusionBenchmark
from robust_encoders.training.evaluation.certificate.certify import certify
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.defence import DefendedPipeline
from robust_encoders.training.evaluation.plan import FixedPlan, Plan
from robust_encoders.training.evaluation.preflight import picture_needs
from robust_encoders.training.methods.merge import merge
from robust_encoders.training.recipes.reproduce import reproduce
from robust_encoders.utils.encoder_names import EncoderNameError
from robust_encoders.utils.extras import OptionalPackage

Usage = namedtuple("Usage", "total used free")
QUICK = EvaluationConfig(chunk=2, checks=0)
ABSENT = OptionalPackage(("no_such_module",), "pip install no-such-module")


def refused(pipe: Any, out: Path, benchmark: Any, config: EvaluationConfig = QUICK) -> str:
    """Start an evaluation that is refused, and return what is said; nothing was drawn and nothing written."""
    calls: list[Any] = []
    handle = pipe.unet.register_forward_hook(lambda *call: calls.append(call))
    with pytest.raises(NotReadyError) as error:
        evaluation.evaluate(pipe, None, benchmark, out=out, config=config)
    handle.remove()
    assert calls == []
    assert not (out / "results.json").is_file()
    return str(error.value)


@dataclass(frozen=True)
class Unplanned:
    """A benchmark that must be refused before it makes a plan."""

    words: tuple[str, ...] = ()
    name: ClassVar[str] = "unplanned"

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Fail."""
        pytest.fail("a plan was made")


def test_everything_that_is_missing_is_told_at_once(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    (tmp_path / "results.json").mkdir()
    (tmp_path / "file").write_text("mine")
    config = replace(
        QUICK, attacks=("torchattack",), metrics=("fid", "kid"), strength=tmp_path, source=tmp_path / "file" / "x"
    )
    tiny_pipe.unet.register_to_config(in_channels=9)
    said = refused(tiny_pipe, tmp_path, Unplanned(), config)
    for text in (
        f"expected a file or nothing at {tmp_path / 'results.json'}, found a folder",
        f"the file {tmp_path / 'file'}",
        "no results.json",
        "an inpainting base",
        "torchattacks and scipy for torchattack",
        "torchmetrics for fid, kid",
    ):
        assert text in said, text


def test_names_in_one_string_are_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    config = replace(QUICK, attacks="none,shout")  # type: ignore[arg-type]  # what is refused
    wrong = Unplanned(words="a, b")  # type: ignore[arg-type]  # what is refused
    said = refused(tiny_pipe, tmp_path / "out", wrong, config)
    assert "config.attacks: expected several strings" in said
    assert "Unplanned.words: expected several strings, found one, 'a, b'" in said


def test_the_parts_of_a_plan_by_hand_are_asked_for_their_packages(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe)
    label = next(iter(plan.attacks))
    attack: Any = plan.attacks[label]

    class Needy(type(attack)):  # type: ignore[misc]  # an attack of any class
        """An attack that needs a package that does not exist."""

        packages = (ABSENT,)

    needy = Needy(**{one.name: getattr(attack, one.name) for one in fields(attack) if one.init})
    said = refused(tiny_pipe, tmp_path / "out", FixedPlan(replace(plan, attacks={label: needy})))
    assert said == f"expected no_such_module for {label}, found no no_such_module; pip install no-such-module"


def test_a_disk_that_is_too_small_for_the_pictures_is_told(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny_pipe)
    (need,) = picture_needs(tiny_pipe, plan, QUICK, tmp_path / "out")
    drawn = sum(len(one.cases) for one in plan.plain) + len(plan.kept.cases)
    assert need.size == 2 * drawn * 3 * 16 * 16 + len(plan.plain[0].cases) * 4 * 8 * 8 * 4
    monkeypatch.setattr("robust_encoders.utils.targets.shutil.disk_usage", lambda place: Usage(10**6, 0, 10))
    assert f"for {drawn} pictures" in refused(tiny_pipe, tmp_path / "out", FixedPlan(plan))


def test_a_folder_with_other_files_is_no_obstacle(tiny_pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    plan = make_plan(tiny_pipe)
    few = replace(plan, attacks={})
    evaluation.evaluate(tiny_pipe, None, FixedPlan(few), out=tmp_path, config=QUICK)
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_prompt_files_are_read_before_a_base_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("case_number,prompt,evaluation_seed,evaluation_guidance\n1,a ring,-1,7.5\n")
    (tmp_path / "kept.json").write_text("{}", encoding="utf-16")
    made = StableDiffusionBenchmark(
        concept="nudity", prompts=str(tmp_path / "prompts.csv"), kept=str(tmp_path / "kept.json"),
        suite="none", fid=False, words=("nude, naked",),
    )  # fmt: skip
    problems = made.problems(made.defaults)
    assert ["line 2" in problems[0], "annotations" in problems[1], "--words nude naked" in problems[2]] == [True] * 3
    hub = replace(made, prompts="org/name@main:file.csv", kept="org/name@" + "a" * 40 + ":file.csv", words=())
    (problem,) = hub.problems(hub.defaults)
    assert "40 hexadecimal digits" in problem


def test_shapes_asks_for_the_packages_of_the_chosen_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    made = ShapesBenchmark("circle")
    assert "torchmetrics" in made.problems(EvaluationConfig())[0]
    assert made.problems(EvaluationConfig(metrics=("clip_score",))) == []


@pytest.mark.parametrize(("given", "words"), [("runs/x", "'runs/x'"), (Path("runs/x"), "write a tuple of paths")])
def test_one_path_where_several_belong_is_refused(tiny_pipe: Any, tmp_path: Path, given: Any, words: str) -> None:
    said = refused(tiny_pipe, tmp_path / "out", Unplanned(), replace(QUICK, reuse=given))
    assert "config.reuse: expected several" in said
    assert words in said


def test_strings_are_read_as_paths(tiny_pipe: Any, tmp_path: Path) -> None:
    few = FixedPlan(replace(make_plan(tiny_pipe), attacks={}))
    places: Any = {"source": str(tmp_path / "source"), "strength": str(tmp_path / "none")}
    said = refused(tiny_pipe, tmp_path / "out", few, replace(QUICK, **places))
    assert f"found no results.json in {tmp_path / 'none'}" in said
    reused: Any = (str(tmp_path / "none"),)
    assert f"found no folder cells in {tmp_path / 'none'}" in refused(
        tiny_pipe, tmp_path / "out", few, replace(QUICK, reuse=reused)
    )
    evaluation.evaluate(tiny_pipe, None, few, out=str(tmp_path / "out"), config=QUICK)
    evaluation.evaluate(tiny_pipe, None, few, out=tmp_path / "b", config=replace(QUICK, reuse=(str(tmp_path / "out"),)))  # type: ignore[arg-type]  # a string is read as a path
    assert (tmp_path / "b" / "results.json").is_file()


@pytest.mark.parametrize("given", ["folder", Path("folder")])
def test_a_name_in_place_of_an_encoder(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_encoder.save_pretrained("folder")
    concept, few = tiny_encoder.manifest.concept, FixedPlan(replace(make_plan(tiny_pipe), attacks={}))
    starts: list[Callable[[Any], object]] = [
        lambda encoder: evaluation.evaluate(tiny_pipe, encoder, few, out="out", config=QUICK),
        lambda encoder: DefendedPipeline(tiny_pipe, encoder),
        lambda encoder: certify(tiny_pipe, encoder, concept, few.made.detector, out="out"),
        lambda encoder: reproduce(encoder, tiny_pipe, out="out"),
        lambda encoder: merge([encoder, tiny_encoder], tiny_pipe),
        lambda encoder: before_after(tiny_pipe, encoder, ["a disc"]),
    ]
    for start in starts:
        with pytest.raises(EncoderNameError, match="expected an encoder, found the name") as caught:
            start(given)
    with pytest.raises(EncoderNameError, match="found the name 'folder'"):
        merge("folder", tiny_pipe)  # type: ignore[arg-type]  # what is refused
    assert not Path("out").exists()
    call = str(caught.value).partition("; pass ")[2]
    encoder = eval(call, {"RobustEncoder": RobustEncoder, "Path": Path})
    starts[0](encoder)
    assert starts[1](encoder)
    assert Path("out", "results.json").is_file()
