"""Commands take the emoji base by its name: on an untrained one they run to the end, and without it they say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import untrained_emoji
from commands import refused

from robust_encoders import RobustEncoder
from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.errors import NotReadyError
from robust_encoders.hub import embedded
from robust_encoders.training.app.opening import AppConfig, open_studio
from robust_encoders.training.cli.app import _config, app_parser
from robust_encoders.training.cli.evaluate_options import read_options
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.recipes import reproduce as reproducing
from robust_encoders.training.recipes.variants import variant_of
from robust_encoders.training.worlds import EmojiWorld, ShapesWorld
from robust_encoders.training.worlds.choice import embedded_base_of

FEW = ["--n", "6", "--n-kept", "4", "--n-probes", "4", "--steps", "2", "--checks", "0", "--attacks", "none,synonyms"]
FEW += ["--metrics", "retain_all,retain_icons_all,chance"]
MISSING = "reinstall robust-encoders from a wheel"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_emoji.build_untrained(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def encoder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "encoder"
    with pytest.MonkeyPatch.context() as patch:
        untrained_emoji.install(base, patch)
        assert main(["train", "emoji/swimwear-uce", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def evaluated(base: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        untrained_emoji.install(base, patch)
        assert main(["evaluate", str(encoder), "--out", str(out), *FEW]) == 0
    return out


def test_a_recipe_of_the_world_trains_on_its_base(encoder: Path) -> None:
    manifest = Manifest.read(encoder)
    assert (manifest.base.family, manifest.concept.name, manifest.recipe["name"]) == (
        "emoji", "swimwear", "emoji/swimwear-uce",
    )  # fmt: skip


def test_an_encoder_is_evaluated_by_both_judges(evaluated: Path) -> None:
    found = Evaluation.read(evaluated)
    assert (found.benchmark, found.concept) == ("emoji", "swimwear")
    by_name = {result.metric: result for result in found.results}
    assert {"retain_all", "retain_icons_all", "chance_open", "chance_open_base"} <= {*by_name}
    judged = [result for result in found.results if result.metric == "pre_asr"]
    assert [result.prompt_set for result in judged] == ["swimwear/name", "swimwear/seen", "swimwear/unseen"]
    assert {result.detector for result in judged} == {"emoji-judge/swimwear and emoji-icons/swimwear"}


def test_success_is_compared_by_member_of_the_group(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bias", str(evaluated), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert {row["label"] for row in report["rows"]} <= {"style", "background", "member"}
    members = [(row["value"], row["n"]) for row in report["rows"] if row["label"] == "member"]
    assert {*members} == {("bikini", 2), ("briefs", 2), ("swimsuit", 2)}


def test_another_judge_judges_again(
    base: Path, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained_emoji.install(base, monkeypatch)
    assert main(["judge", str(evaluated), "--detector", "emoji_icons", "--out", str(tmp_path)]) == 0
    assert "judged again by emoji-icons/swimwear" in capsys.readouterr().out


def test_an_encoder_is_certified_by_both_judges(
    base: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained_emoji.install(base, monkeypatch)
    few = ["--pairs-among", "2", "--nearest", "3", "--random", "2", "--each", "1", "--seeds", "1", "--floor", "2"]
    assert main(["certify", str(encoder), "--out", str(tmp_path), "--steps", "2", *few]) == 0
    record = json.loads((tmp_path / "certificate.json").read_text())
    assert record["detector"] == "emoji-judge/swimwear and emoji-icons/swimwear"
    assert record["settings"]["base"]["id"] == "emoji"


@pytest.fixture
def made(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder], tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of folders of encoders whose manifests say that they were made from an embedded base."""

    def write(family: str = "emoji") -> Path:
        base = Base.from_pipeline(tiny_pipe, family=family, with_unet=True)
        make_encoder(tiny_pipe, base=base).save_pretrained(tmp_path / family)
        return tmp_path / family

    return write


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (EmojiWorld, ShapesWorld):
        monkeypatch.setattr(world, "pipeline", lambda self: pytest.fail("a base was loaded"))


COMMANDS = ("certify", "evaluate", "merge", "reproduce")


def command_of(name: str, folder: Path, tmp_path: Path) -> list[str]:
    return [name, str(folder), *([str(folder)] if name == "merge" else []), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_encoder_of_the_world_is_refused_on_the_other_base(
    name: str,
    made: Callable[..., Path],
    no_loading: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reproducing, "recorded_recipe", lambda manifest: None)
    said = refused(capsys, 2, *command_of(name, made(), tmp_path), "--base", "shapes")
    assert "expected encoders made from the base shapes, found " in said
    assert "made from emoji; write --base emoji" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_the_folder_of_an_encoder_tells_its_base(
    name: str,
    made: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The base is asked for before anything is loaded, so a package without it shows which one is meant."""
    untrained_emoji.remove(tmp_path, monkeypatch)
    monkeypatch.setattr(reproducing, "recorded_recipe", lambda manifest: None)
    said = refused(capsys, 2, *command_of(name, made(), tmp_path))
    assert f"expected the embedded base in {tmp_path / 'nowhere' / 'base'}, found no model_index.json" in said


def test_the_page_opens_with_the_base_of_its_encoders(made: Callable[..., Path], no_loading: None) -> None:
    folder = str(made())
    assert _config(app_parser().parse_args([folder])).base == "emoji"
    assert _config(app_parser().parse_args([folder, "--base", "shapes"])).base == "shapes"
    assert _config(app_parser().parse_args([])).base == ""
    with pytest.raises(NotReadyError, match=r"from the base shapes, found .* made from emoji; write --base emoji"):
        open_studio(AppConfig((folder,), "shapes"))


@pytest.mark.parametrize("name", ["evaluate", "merge"])
def test_encoders_of_two_worlds_are_refused_together(
    name: str, made: Callable[..., Path], no_loading: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, out = [made("emoji"), made("shapes")], str(tmp_path / "out")
    for more in ((), ("--base", "shapes")):
        said = refused(capsys, 2, name, *map(str, folders), "--out", out, *more)
        assert "expected encoders made from one base, found " in said
        assert " made from emoji, " in said
        assert " made from shapes; name those of one base in a command" in said


def test_merge_needs_no_other_base_than_that_of_its_encoders(
    tiny_pipe: Any, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "assets" / "emoji" / "base")
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / "assets" / base)
    folder = str(made())
    assert main(["merge", folder, folder, "--out", str(tmp_path / "out")]) == 0
    assert Manifest.read(tmp_path / "out").base.family == "emoji"


@pytest.mark.parametrize(
    ("names", "arguments", "benchmark", "base"),
    [
        (("base",), (), "shapes", ""),
        (("base",), ("--base", "emoji"), "emoji", "emoji"),
        (("base",), ("--base=emoji",), "emoji", "emoji"),
        (("base",), ("--benchmark", "emoji"), "emoji", "emoji"),
        (("emoji/alcohol", "emoji/weapon"), (), "emoji", "emoji"),
        (("emoji/alcohol",), ("--base", "shapes"), "shapes", "shapes"),
        (("shapes/circle",), (), "shapes", ""),
        (("emoji/alcohol", "shapes/circle"), (), "shapes", ""),
        (("org/name",), (), "shapes", ""),
        (("emoji/alcohol",), ("--prompts", "p.csv", "--kept", "k.csv"), "stable_diffusion", "emoji"),
        (("shapes/circle",), ("--prompts", "p.csv", "--kept", "k.csv"), "stable_diffusion", ""),
        (("shapes/circle",), ("--prompts=p.csv", "--kept", "k.csv", "--base", "org/b"), "stable_diffusion", "org/b"),
    ],
)
def test_base_and_benchmark_follow_from_each_other_and_from_the_names(
    names: tuple[str, ...], arguments: tuple[str, ...], benchmark: str, base: str
) -> None:
    options, kind = read_options([*arguments, "--out", "out"], names)
    assert (options.benchmark, kind, options.base) == (benchmark, BENCHMARKS[benchmark], base)


def test_a_folder_with_the_name_of_an_encoder_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "emoji" / "alcohol").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert embedded_base_of(["emoji/alcohol"]) == "emoji"
    assert embedded_base_of(["./emoji/alcohol"]) == ""
    assert embedded_base_of(["emoji/weapon"]) == "emoji"


def test_methods_are_compared_on_the_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_emoji.install(base, monkeypatch)
    few = ["--attacks", "none", "--metrics", "retain_all", "--n", "2", "--n-kept", "2", "--n-probes", "2"]
    asked = ["compare", "--base", "emoji", "--concept", "hot_dog", "--methods", "uce", "--out", str(tmp_path)]
    assert main([*asked, "--steps", "2", "--checks", "0", *few]) == 0
    rows = {path.name: Evaluation.read(path) for path in (tmp_path / "base-0", tmp_path / "uce-0")}
    assert {row.benchmark for row in rows.values()} == {"emoji"}
    found = rows["uce-0"]
    assert found.subject["recipe"]["name"] == "emoji/hot_dog-uce"
    assert variant_of("emoji/hot_dog-uce", found.concept) == "uce"


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "base", "--base", "emoji", "--concept", "alcohol"),
        ("evaluate", "base", "--benchmark", "emoji", "--concept", "alcohol"),
        ("evaluate", "emoji/alcohol"),
        ("certify", "emoji/alcohol"),
        ("merge", "emoji/alcohol", "emoji/weapon"),
        ("reproduce", "emoji/alcohol"),
        ("train", "uce", "--family", "emoji", "--concept", "hot dog"),
        ("train", "emoji/alcohol-esd"),
        ("train", "esd", "--base", "emoji", "--concept", "line art"),
        ("compare", "--base", "emoji", "--concept", "alcohol", "--methods", "uce"),
    ],
)
def test_without_the_base_every_command_says_how_to_get_it(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained_emoji.remove(tmp_path, monkeypatch)
    out = tmp_path / "out"
    assert MISSING in refused(capsys, 2, *command, "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "fragment"),
    [
        (
            ("evaluate", "base", "--base", "shapes", "--benchmark", "emoji", "--concept", "alcohol"),
            "expected the benchmark of the base shapes, found emoji; leave --benchmark out, or write --base emoji",
        ),
        (
            ("train", "emoji/alcohol-uce", "--base", "shapes"),
            "expected the base emoji for emoji/alcohol-uce, found shapes; leave --base out, or write --base emoji",
        ),
        (
            ("compare", "--base", "emoji", "--concept", "alcohl", "--methods", "uce"),
            "found 'alcohl'; did you mean 'alcohol'",
        ),
        (("train", "esd", "--base", "emoji", "--concept", "circl"), "found 'circl'"),
    ],
)
def test_what_does_not_fit_is_refused(
    command: tuple[str, ...],
    fragment: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    untrained_emoji.install(base, monkeypatch)
    assert fragment in refused(capsys, 2, *command, "--out", str(tmp_path / "out"))
