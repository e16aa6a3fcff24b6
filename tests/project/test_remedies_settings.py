"""Settings of training that contradict each other, and the ways on that each error names: they are followed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_language import RETAINED, on_language
from tiny_training import ANCHORED, prepared
from walking import Walk, tiny_base

from robust_encoders.cli.main import main
from robust_encoders.concepts import Concept
from robust_encoders.training.cli import train as cli_train
from robust_encoders.training.objectives.config import RetainConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder; nobody writes into it."""
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def walk(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Walk:
    return Walk(base, tmp_path, capsys)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipes that the command line accepted; none is run."""
    recipes: list[Any] = []
    monkeypatch.setattr(cli_train, "run_recipe", lambda recipe, *rest, **more: recipes.append(recipe))
    return recipes


# Method, settings that contradict each other, what the message says, and each way on that it names.
CONTRADICTIONS = [
    ("esd", "--hardening.eta 0.1", "a term on conditionings that uses hardening.eta", [
        "--hardening.eta 0.1 --hardening.objective both", "--hardening.eta 0.1 --hardening.additions-weight 1",
        "--hardening.eta 0.1 --unlearn.pull-weight 1 --unlearn.plain-weight 0", "--hardening.eta 0",
        "--hardening.eta 0.1 --unlearn.plain-weight 1 --unlearn.plain-space conditioning",
    ]),
    ("esd", "--hardening.vocabulary 0.5", "expected additions for hardening.vocabulary", [
        "--hardening.vocabulary 0.5 --hardening.additions-weight 1", "--hardening.vocabulary 0",
    ]),
    ("esd", "--outliers.caption-share 0.5", "beside outliers.caption_share", [
        "--outliers.caption-share 0.5 --outliers.alternatives star --outliers.strings-weight 1",
        "--outliers.caption-share 0",
    ]),
    ("advunlearn", "--unlearn.pull-weight 1 --hardening.objective conditioning", "for unlearn.pull_weight", [
        "--unlearn.pull-weight 1 --hardening.objective noise", "--unlearn.pull-weight 1 --hardening.objective both",
        "--unlearn.pull-weight 0 --hardening.objective conditioning",
    ]),
    ("esd", "--outliers.searched-weight 1", "expected outliers.searched_weight 0", ["--outliers.searched-weight 0"]),
    ("esd", "--language.pool-weight 1", "expected language.pool_weight 0", ["--language.pool-weight 0"]),
    ("advunlearn", "--language.pool 95", "different language.pool_tokens, and", ["--language.pool 94"]),
    ("advunlearn", "--language.pool 12", "expected language.pool of at least", [
        "--language.pool 24", "--language.pool 12 --language.pool-batch 12",
    ]),
    ("advunlearn", "--adversary.shared 0.5 --hardening.objective conditioning", "for adversary.shared", [
        "--adversary.shared 0.5 --hardening.objective noise", "--adversary.shared 0.5 --hardening.objective both",
        "--adversary.shared 0 --hardening.objective conditioning",
    ]),
    ("esd", "--erase-from dog --unlearn.target anchor", "beside erase_from", [
        "--erase-from dog --unlearn.target negative_guidance", "--unlearn.target anchor",
    ]),
    ("race", "--start.hardening.objective conditioning", "a start with ESD's term on the concept's own prompts", [""]),
    ("race", "--train.gradient-surgery", "expected no gradient surgery", ["--train.no-gradient-surgery"]),
    ("receler", "--bank.mode fresh", "expected bank.mode 'bank' beside rollout 'student'", [
        "--bank.mode fresh --rollout bank", "--bank.mode bank",
    ]),
    ("uce", "--attributes big --shares 0.5 --texts prompts", "texts='words' together with attributes", [
        "--attributes big --shares 0.5 --texts words", "--texts prompts",
    ]),
    ("dp", "--safe dog --target anchor", "expected safe prompts together with target='projection'", [
        "--safe dog --target projection", "--target anchor",
    ]),
    ("ablation", "--bank.mode fresh", "bank.mode fresh (pictures are drawn once)", ["--bank.mode bank"]),
    ("ablation", "--bank.seeds 2 1", "bank.seeds (set pictures)", ["--pictures 2"]),
    ("ablation", "--train.precision fp16", "train.precision fp16 (choose bf16, because fp16 scales", [
        "--train.precision bf16",
    ]),
    ("doco", "--warmup 2000", "lower warmup, or raise train.iterations", [
        "--warmup 0", "--warmup 2000 --train.iterations 3000",
    ]),
    ("doco", "--surgery 0.5 --train.no-gradient-surgery", "beside no preserving loss", [
        "--surgery 0.5 --train.gradient-surgery",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "wrong", "fragment", "ways"), CONTRADICTIONS)
def test_settings_that_contradict_each_other(
    method: str, wrong: str, fragment: str, ways: list[str], walk: Walk, taken: list[Any]
) -> None:
    walk.refused(2, fragment, *walk.training(method, tiny=False), *wrong.split())
    for way in ways:
        assert main([*walk.training(method, tiny=False), *way.split()]) == 0, way
    assert len(taken) == len(ways)


LATER = [
    ("esd", "--component unet --retain.weight 0.3 --retain.space conditioning", "retain.space (choose noise)", [
        "--component unet --retain.weight 0.3 --retain.space noise",
    ]),
    ("esd", "--component unet --retain.weight 0.3 --unlearn.plain-weight 1 --unlearn.plain-space conditioning "
     "--unlearn.target anchor", "unlearn.plain_space (choose noise)", [
        "--component unet --retain.weight 0.3 --unlearn.plain-weight 1 --unlearn.plain-space noise "
        "--unlearn.target anchor",
    ]),
    ("esd", "--component unet --retain.weight 0.3 --train.precision fp16", "train.precision fp16 (choose bf16", [
        "--component unet --retain.weight 0.3 --train.precision bf16",
    ]),
    ("esd", "--retain.weight 0 --retain.conditioning-weight 0 --train.gradient-surgery", "two losses for gradient", [
        "--train.gradient-surgery", "--retain.weight 0 --train.no-gradient-surgery",
    ]),
    ("esd", "--hardening.eta 0.1 --hardening.objective both --anchor outlined-striped-star", "with as many tokens as", [
        "--hardening.eta 0.1 --hardening.objective both --anchor square", "--hardening.eta 0 --anchor outlined-striped",
    ]),
    ("receler", "--train.gradient-surgery", "a method of two losses for gradient surgery", [
        "--train.no-gradient-surgery",
    ]),
    ("esd", "--outliers.alternatives square --outliers.strings-weight 1 --outliers.caption-share 0.5",
     "among outliers.alternatives", [
        "--outliers.alternatives square star --outliers.strings-weight 1 --outliers.caption-share 0.5",
    ]),
    ("advunlearn", "--outliers.searched-weight 1 --outliers.searched-tokens 200", "expected outliers.searched_tokens", [
        "--outliers.searched-weight 1 --outliers.searched-tokens 3 --outliers.searched-steps 1",
    ]),
    ("esd", "--outliers.inserted-weight 1 --outliers.inserted-tokens 200", "or lower outliers.inserted_tokens", [
        "--outliers.inserted-weight 1 --outliers.inserted-tokens 2",
    ]),
    ("esd", "--hardening.additions-weight 1 --hardening.additions 200", "or lower hardening.additions", [
        "--hardening.additions-weight 1 --hardening.additions 2",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "wrong", "fragment", "ways"), LATER)
def test_settings_that_do_not_fit_the_run(method: str, wrong: str, fragment: str, ways: list[str], walk: Walk) -> None:
    options = walk.training(method, **{"--anchor": "star"})
    walk.refused(2, fragment, *options, *wrong.split())
    for way in ways:
        assert main([*options, *way.split(), "--no-resume"]) == 0, way


def test_words_in_the_place_of_the_concept(tiny_pipe: Any) -> None:
    def terms(prompts: tuple[str, ...], *, said: Concept = ANCHORED, kept: float = 1.0, **weights: float) -> set[str]:
        retain = RetainConfig(prompts=prompts, space="conditioning", conditioning_weight=kept)
        method = replace(on_language(**weights), retain=retain)
        return {term.name for term in prepared(method, tiny_pipe, concept=said).terms}

    with pytest.raises(ValueError, match="retain prompts that differ from the concept's prompts in its word alone, or"):
        terms(("the sea",), pairs_weight=1.0)
    assert "pairs" in terms(("a red star",), pairs_weight=1.0)
    assert "pairs" not in terms(("the sea",), pairs_weight=0.0)
    with pytest.raises(ValueError, match="a weight above 0 for them, or leave both weights at 0"):
        terms(RETAINED, kept=0.0, context_weight=1.0)
    assert "context" in terms(RETAINED, kept=1.0, context_weight=1.0)
    assert "context" not in terms(RETAINED, kept=0.0, context_weight=0.0)
    long = replace(ANCHORED, prompts=("a red circle on white " * 3, "a red circle"))
    odd = ("a red xyzxyzxyz", "a red star")
    with pytest.raises(ValueError, match=r"shorten the concept's prompts, or leave language\.pairs_weight at 0"):
        terms(odd, said=replace(long, prompts=long.prompts[:1]), pairs_weight=1.0)
    assert "pairs" in terms(odd, said=long, pairs_weight=1.0)
    assert "pairs" in terms(odd, said=replace(long, prompts=("a red circle",)), pairs_weight=1.0)
    assert "pairs" not in terms(odd, said=long, pairs_weight=0.0)


def test_a_pool_that_fits_a_prompt(tiny_pipe: Any) -> None:
    def terms(tokens: tuple[int, ...], weight: float) -> set[str]:
        method = on_language(pool_weight=weight, pool_tokens=tokens)
        return {term.name for term in prepared(method, tiny_pipe, concept=ANCHORED).terms}

    with pytest.raises(ValueError, match=r"lower language\.pool_tokens, or leave language\.pool_weight at 0") as error:
        terms((2, 23), 1.0)
    assert "expected language.pool_tokens of at most 22, the room of a prompt of this base, found (2, 23)" in str(
        error.value
    )
    assert "pool" in terms((2, 22), 1.0)
    assert "pool" not in terms((2, 23), 0.0)
