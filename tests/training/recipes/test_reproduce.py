"""A recorded run can be run again, gives the same bits, and says why where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders import Concept, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.cli.main import main
from robust_encoders.training.attacks import INNER_ATTACKS
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.methods import ESD, RECE, SPM, UCE, AdvUnlearn, Receler
from robust_encoders.training.methods.spm import SPMTrainingConfig
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.protocols import Method
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.reproduce import (
    CannotReproduceError,
    compared,
    rebuilt,
    recorded_recipe,
    reproduce,
)
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig

RETAIN = RetainConfig(prompts=("a star", "a cross"), batch=2)
TRAIN = TrainingConfig(iterations=2, rate=1e-2)
BANK = BankConfig(steps=2)
METHODS: dict[str, Method] = {
    "esd": ESD(retain=RETAIN, train=TRAIN, bank=BANK),
    "advunlearn": AdvUnlearn(
        retain=RETAIN,
        train=TRAIN,
        bank=BANK,
        attack=SoftPrompt(steps=1, rate=1e-2),
        adversary=AdversaryConfig(warmup=1, tokens=(1, 2)),
    ),
}
CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
# A method for every other form that is trained.
FORMS: dict[str, Method] = {
    "adapter": SPM(train=SPMTrainingConfig(iterations=2, warmup=1), rollout="bank", bank=BANK),
    "delta": ESD(component="unet", retain=RetainConfig(weight=0), train=TRAIN, bank=BANK),
    "eraser": Receler(rank=2, train=TRAIN, bank=BANK, attack=AdversarialRowsConfig(tokens=4, steps=1)),
}


def recipe(method: str = "esd") -> Recipe:
    return Recipe(name="tiny/circle", concept=CIRCLE, method=METHODS[method], seed=4, base="tiny")


def recorded(encoder: RobustEncoder, **fields: Any) -> RobustEncoder:
    return RobustEncoder(replace(encoder.manifest, **fields), encoder.tensors, encoder.config)


@pytest.fixture
def made(tiny_pipe: Any, tmp_path: Path) -> RobustEncoder:
    run_recipe(recipe(), tiny_pipe, tmp_path / "made", progress=False)
    encoder = RobustEncoder.from_pretrained(tmp_path / "made")
    assert isinstance(encoder, RobustEncoder)
    return encoder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_comes_back_from_its_description(name: str) -> None:
    method = RECIPES[name]().method
    assert rebuilt(type(method), json.loads(json.dumps(describe(method)))) == method


@dataclass(frozen=True)
class Recorded:
    """Settings with a part of several values."""

    steps: int
    concepts: tuple[Concept, ...] = ()


def test_all_settings_and_no_others_are_wanted() -> None:
    star = Concept(name="star", kind="object", synonyms=("asterisk",))
    assert rebuilt(Recorded, {"steps": 3, "concepts": []}) == Recorded(3)
    assert rebuilt(Recorded, describe(Recorded(3, (star,)))) == Recorded(3, (star,))
    odd: dict[str, Any]
    for odd in ({"steps": 3}, {"concepts": []}, {"steps": 3, "concepts": [], "more": 1}):
        with pytest.raises(TypeError, match="fields that differ"):
            rebuilt(Recorded, odd)
    with pytest.raises(TypeError, match="odd"):
        rebuilt(Recorded, {"steps": 3, "concepts": [{**describe(star), "kind": "odd"}]})


def test_a_setting_that_was_added_later_may_be_missing_and_trains_as_before() -> None:
    described = json.loads(json.dumps(describe(METHODS["esd"])))
    del described["train"]["gradient_surgery"]
    assert rebuilt(ESD, described) == METHODS["esd"]
    del described["train"]["rate"]
    with pytest.raises(TypeError, match="fields that differ: rate"):
        rebuilt(ESD, described)


def test_a_part_of_a_part_comes_back_with_all_its_settings() -> None:
    method = RECE(start=UCE(preserve=("a star",)))
    described = json.loads(json.dumps(describe(method)))
    assert rebuilt(RECE, described) == method
    described["start"]["also"] = []
    with pytest.raises(TypeError, match="fields that differ: also"):
        rebuilt(RECE, described)
    described["start"] = {**describe(method.start), "name": "theirs"}
    with pytest.raises(TypeError, match="a part with another name than"):
        rebuilt(RECE, described)


@dataclass(frozen=True)
class Standstill:
    """An inner attack of anybody's, which stays where it begins."""

    name: ClassVar[str] = "standstill"
    patience: int = 3

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        return start.detach()


def test_an_inner_attack_that_was_registered_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    method = AdvUnlearn(retain=RETAIN, attack=Standstill(7), hardening_attack=SoftPrompt.fast())
    described = json.loads(json.dumps(describe(method)))
    assert described["attack"] == {"name": "standstill", "patience": 7}
    with pytest.raises(TypeError, match=r"where .*InnerAttack.* belongs"):
        rebuilt(AdvUnlearn, described)
    attacks: Any = INNER_ATTACKS
    monkeypatch.setitem(attacks, "standstill", Standstill)
    assert rebuilt(AdvUnlearn, described) == method
    described["attack"]["more"] = 1
    with pytest.raises(TypeError, match="fields that differ: more"):
        rebuilt(AdvUnlearn, described)


@pytest.mark.parametrize("name", [None, "theirs"])
def test_a_part_has_the_name_that_was_recorded(name: str | None) -> None:
    described = json.loads(json.dumps(describe(METHODS["advunlearn"])))
    attack = described["attack"]
    attack.pop("name")
    attack.update({} if name is None else {"name": name})
    with pytest.raises(TypeError, match=r"where .*InnerAttack.* belongs"):
        rebuilt(AdvUnlearn, described)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_second_run_gives_the_same_bits(tiny_pipe: Any, tmp_path: Path, method: str) -> None:
    run_recipe(recipe(method), tiny_pipe, tmp_path / "made", progress=False)
    encoder = RobustEncoder.from_pretrained(tmp_path / "made")
    assert recorded_recipe(encoder.manifest) == replace(recipe(method), license="apache-2.0")
    found = reproduce(encoder, tiny_pipe, progress=False)
    assert found.equal
    assert (found.largest, found.relative, found.versions) == (0, 0, {})
    assert encoder.content_sha256 in found.explain()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_is_run_again_and_another_seed_told_apart(tiny_pipe: Any, tmp_path: Path, form: str) -> None:
    made = Recipe(name="tiny/circle", concept=CIRCLE, method=FORMS[form], seed=4, base="tiny")
    encoder = run_recipe(made, tiny_pipe, tmp_path / "made", progress=False)
    assert encoder.manifest.form == form
    assert reproduce(encoder, tiny_pipe, progress=False).equal
    other = compared(encoder, run_recipe(made.with_seed(5), tiny_pipe, tmp_path / "other", progress=False), tiny_pipe)
    assert not other.equal
    assert 0 < other.relative < 10


def test_another_seed_is_told_apart_and_measured(made: RobustEncoder, tiny_pipe: Any, tmp_path: Path) -> None:
    other = recorded(made, recipe={**made.manifest.recipe, "seed": 5}, versions={"torch": "1.0"})
    found = reproduce(other, tiny_pipe, out=tmp_path / "kept", progress=False)
    again = RobustEncoder.from_pretrained(tmp_path / "kept")
    assert not found.equal
    assert found.largest == max(float((again.tensors[n] - t).abs().max()) for n, t in made.tensors.items())
    assert 0 < found.relative < 3
    assert found.versions["torch"][0] == "1.0"
    assert "not equal: values differ by at most" in found.explain()
    assert "torch 1.0 then" in found.explain()


def test_two_projections_are_compared_with_the_identity_that_they_changed(tiny_pipe: Any) -> None:
    def projection(matrix: torch.Tensor) -> Any:
        tensors = {"projection": matrix}
        manifest = SimpleNamespace(form="projection", versions={})
        return SimpleNamespace(manifest=manifest, tensors=tensors, content_sha256=content_sha256(tensors))

    moved = torch.eye(16).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(2.0))
    again = moved.index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(0.5))
    found = compared(projection(moved), projection(again), tiny_pipe)
    assert (found.largest, found.relative) == (0.5, 0.25)
    assert not found.equal
    assert compared(projection(moved), projection(moved), tiny_pipe).equal


def test_what_others_made_cannot_be_run_again(made: RobustEncoder, tiny_pipe: Any) -> None:
    with pytest.raises(CannotReproduceError, match=r"expected a method of this package .*, found 'theirs'"):
        reproduce(recorded(made, method={"name": "theirs"}), tiny_pipe)


@pytest.mark.parametrize("fields", [{}, {"name": "a"}, {"seed": 1}, {"name": "a", "seed": "1"}])
def test_a_recipe_without_name_or_seed_cannot_be_run_again(
    made: RobustEncoder, tiny_pipe: Any, fields: dict[str, Any]
) -> None:
    with pytest.raises(CannotReproduceError, match="expected a recipe with a name and a seed"):
        reproduce(recorded(made, recipe=fields), tiny_pipe)


@pytest.mark.parametrize(
    "change", [{"new": 1}, {"train": {}}, {"train": None}, {"bank": {"steps": "2"}}, {"train": "x"}]
)
def test_settings_of_another_version_are_not_guessed(
    made: RobustEncoder, tiny_pipe: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(CannotReproduceError, match="expected the settings that this version knows"):
        reproduce(recorded(made, method={**made.manifest.method, **change}), tiny_pipe)


@pytest.mark.parametrize(
    ("key", "value"), [("iterations", "2"), ("iterations", 2.5), ("schedule", "odd"), ("clip", "")]
)
def test_values_of_another_type_are_not_trained_with(made: RobustEncoder, tiny_pipe: Any, key: str, value: Any) -> None:
    method = describe(METHODS["esd"])
    method["train"][key] = value
    with pytest.raises(CannotReproduceError, match=r"expected the settings .* where .* belongs"):
        reproduce(recorded(made, method=method), tiny_pipe)


def test_an_attack_of_another_name_is_not_taken_for_ours(made: RobustEncoder, tiny_pipe: Any) -> None:
    method = describe(METHODS["advunlearn"])
    method["attack"]["name"] = "theirs"
    with pytest.raises(CannotReproduceError, match=r"'theirs'.* where .*InnerAttack.* belongs"):
        reproduce(recorded(made, method=method), tiny_pipe)


def test_another_base_is_refused(made: RobustEncoder, make_pipe: Callable[..., Any]) -> None:
    with pytest.raises(CannotReproduceError, match="found another text_encoder, unet; give the pipeline"):
        reproduce(made, make_pipe(seed=9))


def test_the_command_says_yes_or_no(
    made: RobustEncoder, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "base")
    base = ["--base", str(tmp_path / "base")]
    assert main(["reproduce", str(tmp_path / "made"), *base, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["equal"] is True
    assert answer["expected"] == answer["found"] == made.content_sha256
    recorded(made, recipe={**made.manifest.recipe, "seed": 5}).save_pretrained(tmp_path / "other")
    assert main(["reproduce", str(tmp_path / "other"), *base]) == 1
    assert capsys.readouterr().out.startswith("not equal")


def test_the_command_says_why_not(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "theirs")
    assert main(["reproduce", str(tmp_path / "theirs")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "found 'test'; ask the authors how it was made" in err


@pytest.mark.parametrize("name", ["shapes/circle", "shapes/striped", "shapes/red"])
def test_what_is_shipped_was_made_by_the_recipe_of_its_name(name: str) -> None:
    assert recorded_recipe(RobustEncoder.from_pretrained(name).manifest) == RECIPES[name]()
