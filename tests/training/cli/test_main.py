"""The command line: answers on stdout, errors in one line on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused, save_artifact
from diffusers import StableDiffusionPipeline
from tree import ROOT

from robust_encoders import embedded_pipeline
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.training.cli import demo
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.cli.evaluate_options import read_options
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.base_configs import BaseConfigs
from robust_encoders.training.diffusion.load import OpenedBase
from robust_encoders.training.evaluation import evaluate
from robust_encoders.training.evaluation.benchmarks import ShapesBenchmark, StableDiffusionBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.methods import METHODS, RECE, UCE, AdvUnlearn
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.prompts.retain import object_prompts
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.shapes_closed_forms import embedded_settings
from robust_encoders.training.trackers import Trackers
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.training.worlds.emoji import fetch as emoji_fetch
from robust_encoders.training.worlds.emoji.corpus import EmojiCorpus
from robust_encoders.training.worlds.pretrain import build as shapes_build
from robust_encoders.training.worlds.shapes.retain import retain_prompts

PipelineMaker = Callable[..., StableDiffusionPipeline]


@pytest.fixture
def base(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """A pipeline folder."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def artifact(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """An encoder that fits ``base``."""
    return save_artifact(tiny_pipe, tmp_path / "artifact")


class Recorder:
    """Stands in for a long run and keeps what it was called with."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.args, self.kwargs = args, kwargs
        return self.answer


def test_demo_prints_the_table_of_what_it_drew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Recorder(demo.DemoSummary(tmp_path / "demo.png", (demo.DemoRow("a-title", "a-question?", 4, 3, 0),), 1.0))
    monkeypatch.setattr(demo, "run_demo", record)
    assert main(["demo", "--out", str(tmp_path), "--seed", "5"]) == 0
    assert (record.args, record.kwargs) == ((tmp_path,), {"seed": 5, "bases": ()})
    out = capsys.readouterr().out
    assert all(text in out for text in ("a-title", "3 of 4", "0 of 4", str(tmp_path / "demo.png")))


def test_demo_draws_with_the_base_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = Recorder(demo.DemoSummary(tmp_path / "demo.png", (), 1.0))
    monkeypatch.setattr(demo, "run_demo", record)
    assert main(["demo", "--out", str(tmp_path), "--base", "emoji"]) == 0
    assert record.kwargs["bases"] == ("emoji",)


def test_demo_wants_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "folder" in refused(capsys, 2, "demo", "--out", str(tmp_path / "picture.png"))


def test_shapes_build_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = Recorder()
    monkeypatch.setattr(shapes_build, "build", record)
    work = tmp_path / "work"
    options = ["--out", str(tmp_path), "--work", str(work), "--seed", "3", "--stages", "text", "unet"]
    assert main(["shapes", "build", *options]) == 0
    corpus, out = record.args
    assert (type(corpus).__name__, out) == ("ShapesCorpus", tmp_path)
    assert record.kwargs == {"seed": 3, "stages": ["text", "unet"], "work": work}


def test_emoji_build_is_handed_on_with_its_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, read = Recorder(), Recorder("the world")
    monkeypatch.setattr(shapes_build, "build", record)
    monkeypatch.setattr(EmojiCorpus, "read", read)
    out, work = tmp_path / "out", tmp_path / "work"
    assert main(["emoji", "build", "--out", str(out), "--work", str(work), "--stages", "text"]) == 0
    assert read.args == (work / "sources", work)
    assert record.args == ("the world", out)
    assert record.kwargs == {"seed": 0, "stages": ["text"], "work": work}
    assert main(["emoji", "build", "--out", str(out), "--sources", str(tmp_path)]) == 0
    assert read.args == (tmp_path, out / "work")


def test_emoji_build_without_the_packages_names_the_command_that_fetches_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, 1, "emoji", "build", "--out", str(tmp_path))
    assert f"robust-encoders emoji fetch --out {tmp_path / 'work' / 'sources'}" in said


def test_emoji_build_without_the_renderer_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert "'.[worlds]'" in refused(capsys, 2, "emoji", "build", "--out", str(tmp_path))


def test_emoji_fetch_prints_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Recorder()
    monkeypatch.setattr(emoji_fetch, "fetch", record)
    assert main(["emoji", "fetch", "--out", str(tmp_path / "sources")]) == 0
    assert record.args == (tmp_path / "sources",)
    assert capsys.readouterr().out == f"{tmp_path / 'sources'}\n"


def test_an_unknown_stage_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'unet'" in refused(capsys, 2, "shapes", "build", "--out", str(tmp_path), "--stages", "unett")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    record = Recorder()
    monkeypatch.setattr(cli_train, "run_recipe", record)
    monkeypatch.setattr(ShapesWorld, "pipeline", lambda self: "the embedded base")
    return record


def test_train_without_options_runs_the_recipe_as_it_is(trained: Recorder, tmp_path: Path) -> None:
    assert main(["train", "shapes/circle", "--out", str(tmp_path)]) == 0
    assert trained.args == (RECIPES["shapes/circle"](), "the embedded base", tmp_path)
    memory = {"micro_batch": None, "gradient_checkpointing": False, "trackers": Trackers()}
    where = {"cache_dir": None, "base_ids": (), "base_revision": ""}
    assert trained.kwargs == {"resume": True, "every": 50, "progress": True, **memory, **where}


def test_train_changes_only_what_it_is_told_to(trained: Recorder, tmp_path: Path) -> None:
    options = ["--seed", "3", "--no-resume", "--train.iterations", "7", "--attack.steps", "2"]
    options += ["--bank.seeds", "4", "1"]
    assert main(["train", "shapes/red", "--out", str(tmp_path), *options]) == 0
    changed, original = trained.args[0], RECIPES["shapes/red"]()
    assert (changed.seed, changed.method.train.iterations, changed.method.attack.steps) == (3, 7, 2)
    assert trained.kwargs["resume"] is False
    assert changed.concept == original.concept
    assert isinstance(original.method, AdvUnlearn)
    assert changed.method.retain == original.method.retain
    assert changed.method.bank == replace(original.method.bank, seeds=(4, 1))


def test_train_takes_retain_prompts_instead_of_the_recipes(trained: Recorder, tmp_path: Path) -> None:
    assert main(["train", "shapes/circle", "--out", str(tmp_path), "--retain.prompts", "a ring", "a star"]) == 0
    assert trained.args[0].method.retain.prompts == ("a ring", "a star")


def test_train_by_a_method_knows_the_concepts_of_the_embedded_base(trained: Recorder, tmp_path: Path) -> None:
    assert main(["train", "esd", "--out", str(tmp_path), "--concept", "star", "--anchor", "ring"]) == 0
    recipe = trained.args[0]
    assert (recipe.concept.name, recipe.concept.kind, recipe.concept.anchor) == ("star", "object", "ring")
    assert recipe.concept.prompts
    assert recipe.method.retain.prompts
    assert not [text for text in recipe.method.retain.prompts if "star" in text.split()]
    assert (recipe.base, recipe.license, recipe.method.name) == ("shapes", "apache-2.0", "esd")


def test_train_erases_several_concepts_at_once(trained: Recorder, tmp_path: Path) -> None:
    assert main(["train", "shapes/circle-uce", "--out", str(tmp_path), "--also", "shapes/red", "star"]) == 0
    recipe = trained.args[0]
    assert recipe.name == "shapes/circle-uce+red+star"
    assert [(part.name, part.anchor) for part in recipe.concept.parts] == [
        ("circle", "square"), ("red", "green"), ("star", "")
    ]  # fmt: skip
    words = {word for text in recipe.method.retained for word in text.split()}
    assert {"square", "green", "triangle"} <= words
    assert not words & {"circle", "disc", "round", "red", "scarlet", "ruby", "star", "asterisk"}


def test_what_a_user_retains_beside_several_concepts_stays_as_it_is(trained: Recorder, tmp_path: Path) -> None:
    options = ["--also", "red", "--retain.prompts", "a ring", "a red ring"]
    assert main(["train", "esd", "--out", str(tmp_path), "--concept", "star", *options]) == 0
    assert trained.args[0].method.retained == ("a ring", "a red ring")
    assert [part.name for part in trained.args[0].concept.parts] == ["star", "red"]


def test_several_published_concepts_share_a_run(
    trained: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_train, "open_named", lambda *a, **k: OpenedBase("a pipeline", "sd1", ("org/a",), "f" * 40))
    options = ["train", "sd1/church", "--out", str(tmp_path), "--base", "org/a"]
    assert main([*options, "--also", "sd1/parachute"]) == 0
    recipe = trained.args[0]
    assert recipe.concept.name == "church and parachute"
    assert {"church", "parachute"} <= set(recipe.concept.prompts), "each is trained by its own name"
    assert not [text for text in recipe.method.retained if "church" in text or "parachute" in text]
    capsys.readouterr()
    assert "sd1/church" in refused(capsys, 2, *options, "--also", "dog")


def test_concepts_that_cannot_be_erased_together_are_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "shapes/circle", "--out", str(tmp_path), "--also"]
    assert "each concept once" in refused(capsys, 2, *options, "circle")
    assert "which names 'triangle'" in refused(capsys, 2, *options, "triangle")
    assert "triangle" in refused(capsys, 2, *options, "dog")


def own_base(base: Path, tmp_path: Path) -> list[str]:
    """Options that train on a pipeline folder, as little as possible."""
    (tmp_path / "with.txt").write_text("a red circle\n\na circle\n")
    (tmp_path / "without.txt").write_text("a blue square\na green star\n")
    options = {
        "--out": tmp_path / "trained",
        "--base": base,
        "--concept": "circle",
        "--family": "a-family",
        "--kind": "object",
        "--prompts": tmp_path / "with.txt",
        "--retain-prompts": tmp_path / "without.txt",
        "--train.iterations": 1,
        "--bank.steps": 2,
    }
    return [str(part) for pair in options.items() for part in pair]


def test_train_by_a_method_makes_an_encoder_that_fits_its_base(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "esd", *own_base(base, tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "trained")
    manifest = Manifest.read(tmp_path / "trained")
    assert manifest.concept.prompts == ("a red circle", "a circle")
    assert manifest.method["retain"]["prompts"] == ["a blue square", "a green star"]
    assert (manifest.base.family, manifest.license) == ("a-family", "")
    assert main(["check", str(tmp_path / "trained"), str(base)]) == 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [("--family", "--family"), ("--kind", "--kind")],
)
def test_train_on_a_base_of_ones_own_needs_to_know(
    missing: str, message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = own_base(base, tmp_path)
    place = options.index(missing)
    assert message in refused(capsys, 2, "train", "esd", *options[:place], *options[place + 2 :])


def test_train_without_retain_terms_needs_no_retain_prompts(trained: Recorder, base: Path, tmp_path: Path) -> None:
    options = own_base(base, tmp_path)
    place = options.index("--retain-prompts")
    del options[place : place + 2]
    assert main(["train", "esd", *options, "--retain.weight", "0"]) == 0
    assert trained.args[0].method.retain.prompts == ()


def test_train_on_a_base_of_ones_own_retains_everyday_objects(trained: Recorder, base: Path, tmp_path: Path) -> None:
    options = own_base(base, tmp_path)
    place = options.index("--retain-prompts")
    del options[place : place + 2]
    assert main(["train", "esd", *options]) == 0
    assert trained.args[0].method.retain.prompts == object_prompts(trained.args[0].concept)


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_train_by_a_projection_retains_what_is_named_and_else_nothing(
    trained: Recorder, base: Path, tmp_path: Path, method: str
) -> None:
    options = own_base(base, tmp_path)[:-4]  # no iterations, no bank
    assert main(["train", method, *options]) == 0
    assert trained.args[0].method.retained == ("a blue square", "a green star")
    place = options.index("--retain-prompts")
    del options[place : place + 2]
    assert main(["train", method, *options]) == 0
    kind = METHODS[method]
    assert issubclass(kind, UCE | RECE)
    assert trained.args[0].method == kind.standard(()).by_captions()
    assert main(["train", method, "--out", str(tmp_path / "star"), "--concept", "star"]) == 0
    assert trained.args[0].method.retained == retain_prompts("star")


@pytest.mark.parametrize("method", ["dp", "speed"])
def test_train_by_a_closed_form_on_the_embedded_base_has_the_settings_of_its_recipes(
    trained: Recorder, tmp_path: Path, method: str
) -> None:
    assert main(["train", method, "--concept", "green", "--out", str(tmp_path)]) == 0
    recipe = trained.args[0]
    assert recipe.method == embedded_settings(method, retain_prompts("green"))
    assert recipe.concept.prompts
    edit = recipe.method.erase(Backbone.from_pipeline(embedded_pipeline()), recipe.concept, generator=torch.Generator())
    assert all(tensor.isfinite().all() for tensor in edit.tensors.values())
    if method == "dp":
        matrix = edit.tensors["projection"]
        assert edit.log["free_directions"] == 32
        assert not torch.allclose(matrix, torch.eye(len(matrix)), atol=0.01)


def test_train_by_the_recipe_of_a_projection_keeps_what_it_retains(trained: Recorder, tmp_path: Path) -> None:
    options = ["train", "shapes/circle-rece", "--out", str(tmp_path), "--epochs", "2"]
    assert main(options) == 0
    shipped = RECIPES["shapes/circle-rece"]().method
    assert isinstance(shipped, RECE)
    assert trained.args[0].method == replace(shipped, epochs=2)
    assert main([*options, "--start.preserve", "a ring", "a star"]) == 0
    assert trained.args[0].method.retained == ("a ring", "a star")


@pytest.mark.parametrize("concept", ["vangogh", "Van Gogh"])
def test_train_knows_the_papers_concepts_and_the_family(
    trained: Recorder, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concept: str
) -> None:
    monkeypatch.setattr(cli_train, "open_named", lambda *a, **k: OpenedBase("a pipeline", "sd2", ("org/a",), "f" * 40))
    monkeypatch.setattr(BaseConfigs, "of_hub", lambda *a, **k: None)
    out = str(tmp_path / "out")
    assert main(["train", "advunlearn", "--out", out, "--base", "org/a", "--concept", concept]) == 0
    recipe = trained.args[0]
    assert (recipe.name, recipe.base) == ("sd2/Van Gogh-advunlearn", "sd2")
    assert (recipe.concept.name, recipe.concept.kind) == ("Van Gogh", "style")
    assert (trained.kwargs["base_ids"], trained.kwargs["base_revision"]) == (("org/a",), "f" * 40)


def test_a_recipe_of_a_real_base_needs_one_of_its_family(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "sd1/church", "--out", str(tmp_path / "out")]
    assert "CompVis/stable-diffusion-v1-4" in refused(capsys, 2, *options)
    assert "family sd1" in refused(capsys, 2, *options, "--base", str(base))


def test_a_caption_file_that_is_not_there_is_bad_usage(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = own_base(base, tmp_path)
    (tmp_path / "with.txt").unlink()
    assert "with.txt" in refused(capsys, 2, "train", "esd", *options)


def test_a_concept_that_the_embedded_base_does_not_know_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "triangle" in refused(capsys, 2, "train", "esd", "--out", str(tmp_path), "--concept", "dog")


def test_a_recipe_that_does_not_exist_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'shapes/circle'" in refused(capsys, 2, "train", "shapes/circel")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    record = Recorder(Evaluation("a-label", "circle", (), {}))
    monkeypatch.setattr(evaluate, "evaluate", record)
    monkeypatch.setattr(ShapesWorld, "pipeline", lambda self: Placed("shapes", dtype=None))
    return record


class Placed(str):
    """Stands for the embedded base, and notes where it is put."""

    def __new__(cls, base: str, *, dtype: Any) -> Placed:
        return super().__new__(cls, "the embedded base")

    def to(self, device: str) -> Placed:
        assert device
        return self


def planned(record: Recorder) -> Plan:
    """The plan that an evaluation was called with."""
    plan: Plan = record.args[2].plan(record.args[0], EvaluationConfig())
    return plan


def test_evaluate_looks_for_what_the_encoder_erases(
    evaluated: Recorder, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "out"), "--n", "8", "--suite", "quick", "--steps", "3"]
    assert main(["evaluate", str(artifact), *options]) == 0
    pipe, encoder, _ = evaluated.args
    plan, config = planned(evaluated), evaluated.kwargs["config"]
    assert (pipe, encoder.manifest.concept.name, plan.concept.name) == ("the embedded base", "circle", "circle")
    assert evaluated.kwargs["out"] == tmp_path / "out"
    assert (len(plan.plain[0].cases), config.sampling.steps) == (8, 3)
    assert list(plan.attacks) == ["random", "discrete", "continuous", "shared"]
    assert "a-label" in capsys.readouterr().out


def test_evaluate_of_the_base_itself_needs_a_concept(
    evaluated: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--concept" in refused(capsys, 2, "evaluate", "base", "--out", str(tmp_path))
    assert main(["evaluate", "base", "--out", str(tmp_path), "--concept", "red"]) == 0
    assert evaluated.args[:2] == ("the embedded base", None)
    assert planned(evaluated).concept.name == "red"


def test_evaluate_writes_the_report_and_says_where(
    evaluated: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["evaluate", "base", "--concept", "red", "--out", str(tmp_path / "out")]
    assert main(options) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    assert "a-label" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "found no results.json" in refused(capsys, 2, *options, "--beside", str(tmp_path))


def test_evaluate_takes_several_encoders_and_gives_each_a_folder(
    evaluated: Recorder, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "base", "word_filter", str(artifact), "--concept", "circle", "--out", str(out)]) == 0
    made = [path.parent.name for path in sorted(out.glob("*/report.html"))]
    assert len(made) == 3
    assert {"base", "word_filter"} < set(made)
    assert evaluated.kwargs["config"].source == out / ".source"
    assert capsys.readouterr().out.count("a-label") == 3


def test_evaluate_of_two_encoders_under_one_name_or_of_two_concepts_is_bad_usage(
    evaluated: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--concept", "circle"]
    assert "names of their own" in refused(capsys, 2, "evaluate", "base", "base", *options)
    both = refused(capsys, 2, "evaluate", "shapes/circle", "shapes/red", "--out", str(tmp_path))
    assert "expected encoders of one concept, found circle, red" in both


def test_evaluate_takes_a_baseline_for_the_concept_it_is_told(evaluated: Recorder, tmp_path: Path) -> None:
    assert main(["evaluate", "word_filter", "--concept", "circle", "--out", str(tmp_path)]) == 0
    words = evaluated.args[1].words
    assert "circle" in words
    assert "round" not in words  # held out: no defender knows it


def test_the_documented_command_for_a_real_base_parses() -> None:
    text = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    found = re.search(r"robust-encoders evaluate nudity (--base .*?)\n```", text, re.DOTALL)
    assert found is not None
    options, kind = read_options(found[1].replace("\\\n", " ").split())
    assert kind is StableDiffusionBenchmark
    assert options.base == "CompVis/stable-diffusion-v1-4"
    assert (options.settings.detector, options.settings.suite) == ("nudenet:unlearn_diff_atk", "full")
    assert options.config.sampling == StableDiffusionBenchmark.defaults.sampling
    options, kind = read_options(["--out", "x", "--attacks", "none,shout", "--metrics", "a", "b"])
    assert kind is ShapesBenchmark
    assert (options.config.attacks, options.config.metrics) == (("none", "shout"), ("a", "b"))


def test_evaluate_of_a_real_base_says_what_is_wrong_with_its_files(
    artifact: Path, tmp_path: Path, make_pipe: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_pipe().save_pretrained(tmp_path / "base")
    options = ["--base", str(tmp_path / "base"), "--prompts", "none.csv", "--kept", "none.csv", "--out", str(tmp_path)]
    assert "none.csv" in refused(capsys, 2, "evaluate", str(artifact), *options)
    assert "cuda:99" in refused(capsys, 2, "evaluate", str(artifact), *options, "--device", "cuda:99")


def test_evaluate_records_only_what_the_encoder_erases(
    evaluated: Recorder, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--concept", "red", "--record"]
    assert "one of another concept" in refused(capsys, 2, "evaluate", str(artifact), *options)


def test_evaluate_of_an_encoder_of_several_concepts_wants_to_know_which(
    evaluated: Recorder, tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joint = Concept.joint([Concept(name=name, kind="object") for name in ("circle", "star")])
    manifest = replace(tiny_encoder.manifest, concept=joint)
    RobustEncoder(manifest, tiny_encoder.tensors, tiny_encoder.config).save_pretrained(tmp_path / "joint")
    options = ["evaluate", str(tmp_path / "joint"), "--out", str(tmp_path / "out")]
    assert "an encoder of circle, star; name one with --concept" in refused(capsys, 2, *options)
    assert main([*options, "--concept", "star"]) == 0
    assert planned(evaluated).concept.name == "star"


def test_evaluate_of_a_concept_that_the_judge_does_not_know_is_bad_usage(
    evaluated: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "'circle'" in refused(capsys, 2, "evaluate", "base", "--out", str(tmp_path), "--concept", "circl")


def test_results_prints_the_tables_of_finished_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, concept in (("one", "circle"), ("two", "striped")):
        results = (rate("pre_asr", [True, False, False, False]),)
        evaluation = Evaluation(name, concept, tuple(replace(r, prompt_set="x/name") for r in results))
        evaluation.write(tmp_path / name / "results.json")
    assert main(["results", str(tmp_path / "one"), str(tmp_path / "two" / "results.json")]) == 0
    out = capsys.readouterr().out
    assert out.index("### circle") < out.index("one,") < out.index("### striped") < out.index("two,")
    assert out.count("25.0 [4.6, 69.9]") == 2


def test_results_of_an_evaluation_that_has_not_finished_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path / "results.json") in refused(capsys, 2, "results", str(tmp_path))


@pytest.mark.parametrize("command", ["results", "leaderboard"])
def test_the_folder_that_evaluations_share_is_no_evaluation(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the leaderboard draws here
    result = replace(rate("pre_asr", [True, False, False, False]), prompt_set="circle/name")
    Evaluation("esd", "circle", (result,)).write(tmp_path / "board" / "esd" / "results.json")
    (tmp_path / "board" / "source" / "chunks").mkdir(parents=True)
    assert main([command, *map(str, sorted((tmp_path / "board").iterdir()))]) == 0
    assert "ESD" in capsys.readouterr().out
    assert "expected at least one" in refused(capsys, 2, command, str(tmp_path / "board" / "source"))
    (tmp_path / "board" / "source" / "cells").mkdir()
    assert "results.json" in refused(capsys, 2, command, str(tmp_path / "board" / "source"))


@pytest.mark.parametrize("command", ["results", "leaderboard"])
def test_results_on_another_schema_are_bad_usage(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"schema": 0}', encoding="utf-8")
    assert "expected schema 1" in refused(capsys, 2, command, str(tmp_path))
