"""Commands take the emoji base by its name: on an untrained one they run to the end, and without it they say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import untrained_emoji
from commands import refused

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.training.cli.evaluate_options import embedded_base_of, read_options
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.recipes.variants import variant_of

FEW = ["--n", "6", "--n-kept", "4", "--n-probes", "4", "--steps", "2", "--checks", "0", "--attacks", "none,synonyms"]
FEW += ["--metrics", "retain_all,retain_icons_all,chance"]
MISSING = "or build it with `robust-encoders emoji build`"


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
        assert main(["evaluate", str(encoder), "--base", "emoji", "--out", str(out), *FEW]) == 0
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
    assert main(["certify", str(encoder), "--base", "emoji", "--out", str(tmp_path), "--steps", "2", *few]) == 0
    record = json.loads((tmp_path / "certificate.json").read_text())
    assert record["detector"] == "emoji-judge/swimwear and emoji-icons/swimwear"
    assert record["settings"]["base"]["id"] == "emoji"


def test_an_encoder_of_the_world_is_refused_on_the_other_base(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, 2, "evaluate", str(encoder), "--out", str(tmp_path / "out"))
    assert "expected encoders made from the base shapes, found one made from emoji; add --base emoji" in said


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
    ],
)
def test_base_and_benchmark_follow_from_each_other_and_from_the_names(
    names: tuple[str, ...], arguments: tuple[str, ...], benchmark: str, base: str
) -> None:
    options, kind = read_options([*arguments, "--out", "out"], names)
    assert (options.benchmark, kind, options.base) == (benchmark, BENCHMARKS[benchmark], base)


def test_a_folder_with_the_name_of_an_encoder_names_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emoji" / "alcohol").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert embedded_base_of(["emoji/alcohol"]) == ""
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
