"""Files of settings: what is written is read back, and what cannot be read is said with its line."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from robust_encoders import Concept
from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest
from robust_encoders.training.attacks.embedding_pgd import EmbeddingPGD
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.methods import METHODS, AdvUnlearn
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.method_settings import standard, stated_concept, stated_method
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.run_file import RunFileError, read_run_file, values_of, write_run_file
from robust_encoders.training.recipes.settings import Problems, changed, converted

ENDINGS = (".json", ".toml")


@pytest.fixture(params=ENDINGS)
def ending(request: pytest.FixtureRequest) -> str:
    """Both formats; TOML is written by a package of its own."""
    if request.param == ".toml":
        pytest.importorskip("tomli_w")
    return str(request.param)


def from_file(path: Path) -> Recipe:
    """The recipe of a whole file, over settings that differ from it wherever they can."""
    values, problems = read_run_file(path), Problems()
    method = stated_method(standard(METHODS[values["method"]["name"]]), values["method"], problems)
    concept = stated_concept(values["concept"], "concept", problems)
    assert not problems.found
    assert concept is not None
    return Recipe(
        name=values["recipe"],
        concept=concept,
        method=method,
        base=values["family"],
        license=values["license"],
        found_synonyms=values.get("found_synonyms", {}),
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_comes_back_from_its_file(name: str, tmp_path: Path, ending: str) -> None:
    recipe = RECIPES[name]()
    path = tmp_path / f"run{ending}"
    write_run_file(path, values_of(recipe))
    read = from_file(path)
    assert read == recipe
    assert json.dumps(describe(read)) == json.dumps(describe(recipe)), "numbers keep their types"
    write_run_file(tmp_path / f"again{ending}", values_of(read))
    assert (tmp_path / f"again{ending}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["esd", "uce", "race"])
def test_odd_text_and_several_concepts_come_back(name: str, tmp_path: Path, ending: str) -> None:
    texts = ('a "b" \\ c', "café 円 🦩", "tab\tand\nline", "none", "#x", "'''", '"""', "\x7f")
    parts = [Concept(name=text, kind="style", prompts=(text, text + "!"), synonyms=(f"{text}?",)) for text in texts]
    method = standard(METHODS[name])
    recipe = Recipe(name=texts[0], concept=Concept.joint(parts), method=method, found_synonyms={texts[1]: 0.5})
    write_run_file(tmp_path / f"run{ending}", values_of(recipe))
    assert from_file(tmp_path / f"run{ending}") == recipe


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings with every type of a field."""

    whole: int = 1
    real: float = 0.5
    on: bool = False
    text: str = "none"
    kind: Literal["a", "b"] = "a"
    many: tuple[int, ...] = (1,)
    pair: tuple[int, int] = (1, 2)
    either: int | tuple[int, int] = 3
    maybe: float | None = None
    layers: tuple[int, ...] | None = (0,)

    def __post_init__(self) -> None:
        if self.whole < 0:
            raise ValueError(f"expected whole >= 0, found {self.whole}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Settings in settings."""

    inner: Inner = field(default_factory=Inner)
    rate: float = 1.0


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, Inner()),
        ({"real": 2}, Inner(real=2.0)),
        ({"maybe": None}, Inner()),
        ({"maybe": "none", "layers": "none"}, Inner(layers=None)),
        ({"maybe": 1}, Inner(maybe=1.0)),
        ({"text": ""}, Inner(text="")),
        ({"many": []}, Inner(many=())),
        ({"either": [4, 5], "pair": [6, 7]}, Inner(either=(4, 5), pair=(6, 7))),
    ],
)
def test_stated_fields_change_and_the_others_stay(given: dict[str, Any], made: Inner) -> None:
    problems = Problems()
    start = Outer(inner=Inner(), rate=7.0)
    found = changed(start, {"inner": given}, "method", problems)
    assert not problems.found
    assert found == Outer(inner=made, rate=7.0)
    assert type(found.inner.real) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"whole": "1"}, "method.inner.whole: expected an integer, found '1'"),
        ({"whole": True}, "method.inner.whole: expected an integer, found True"),
        ({"whole": 1.5}, "method.inner.whole: expected an integer, found 1.5"),
        ({"whole": None}, "method.inner.whole: expected an integer, found None"),
        ({"whole": -1}, "method.inner: expected whole >= 0, found -1"),
        ({"real": True}, "method.inner.real: expected a number, found True"),
        ({"real": math.nan}, "method.inner.real: expected a number, found nan"),
        ({"real": math.inf}, "method.inner.real: expected a number, found inf"),
        ({"on": 1}, "method.inner.on: expected true or false, found 1"),
        ({"text": 1}, "method.inner.text: expected a text, found 1"),
        ({"text": None}, "method.inner.text: expected a text, found None"),
        ({"kind": "c"}, "method.inner.kind: expected one of 'a', 'b', found 'c'"),
        ({"many": 1}, "method.inner.many: expected a list, each an integer, found 1"),
        ({"many": ["1"]}, "method.inner.many: expected a list, each an integer, found ['1']"),
        ({"pair": [1]}, "method.inner.pair: expected a list of 2: an integer, an integer, found [1]"),
        ({"either": "x"}, "method.inner.either: expected an integer or a list of 2: an integer, an integer"),
        ({"maybe": "x"}, "method.inner.maybe: expected a number or 'none', found 'x'"),
        ({"wole": 1}, "method.inner.wole: expected a setting, found an unknown name; did you mean method.inner.whole?"),
        ({"rate": 1}, "method.inner.rate: expected a setting, found an unknown name; known: "),
        ({"name": "x"}, "method.inner.name: expected 'no name', found 'x'"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(given: dict[str, Any], message: str) -> None:
    problems = Problems()
    changed(Outer(), {"inner": given}, "method", problems)
    (found,) = problems.found
    assert found.startswith(message)


def test_all_problems_are_found_at_once() -> None:
    problems = Problems()
    changed(Outer(), {"inner": {"whole": "x", "reel": 1, "on": 2}, "rat": 1}, "method", problems)
    assert sorted(one.partition(":")[0] for one in problems.found) == [
        "method.inner.on", "method.inner.reel", "method.inner.whole", "method.rat"
    ]  # fmt: skip
    problems = Problems()
    changed(Outer(), {"inner": 3}, "method", problems)
    assert problems.found == ["method.inner: expected a table of settings, found 3"]


def test_another_inner_attack_has_its_own_defaults_and_the_same_keeps_its_settings() -> None:
    start = AdvUnlearn(retain=RetainConfig(prompts=("a",)), attack=SoftPrompt(steps=7))
    problems = Problems()
    same = changed(start, {"attack": {"name": "soft_prompt", "rate": 1}}, "method", problems)
    assert same.attack == SoftPrompt(steps=7, rate=1.0)
    assert changed(start, {"attack": {"rate": 1}}, "method", problems).attack == same.attack
    assert changed(start, {"attack": {"name": "embedding_pgd"}}, "method", problems).attack == EmbeddingPGD()
    assert not problems.found
    changed(start, {"attack": {"name": "embedding_pdg"}}, "method", problems)
    changed(start, {"attack": {"steeps": 3}}, "method", problems)
    changed(start, {"attack": "soft_prompt"}, "method", problems)
    assert "did you mean 'embedding_pgd'" in problems.found[0]
    assert problems.found[1].endswith("did you mean method.attack.steps?")
    assert problems.found[2].startswith("method.attack: expected a table with the name")


@pytest.mark.parametrize("fields", [{}, {"component": "unet"}])
def test_a_stated_component_has_its_own_retain_weights(fields: dict[str, Any]) -> None:
    problems = Problems()
    method: Any = stated_method(standard(METHODS["esd"]), fields, problems)
    assert (method.component, method.retain.weight > 0) == (fields.get("component", "text_encoder"), not fields)
    race: Any = stated_method(standard(METHODS["race"]), {"start": {"component": "text_encoder"}}, problems)
    assert race.start.retain.weight > 0
    assert not problems.found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "star"}, "concept.kind: expected this setting, found none"),
        ({"kind": "object"}, "concept.name: expected this setting, found none"),
        ({"name": "star", "kind": "objekt"}, "concept.kind: expected one of"),
        ({"name": "", "kind": "object"}, "concept: this concept is not valid"),
        ({"name": "star", "kind": "object", "synonym": []}, "concept.synonym: expected a setting"),
        ({"name": "star", "kind": "object", "synonyms": "asterisk"}, "concept.synonyms: expected a list"),
        ({"name": "star", "kind": "object", "parts": [1]}, "concept.parts: expected a list of tables"),
        ({"name": "a", "kind": "object", "parts": [{"name": "b"}, {}]}, "concept.parts[0].kind"),
    ],
)
def test_a_concept_that_is_not_whole_is_refused(table: dict[str, Any], message: str) -> None:
    problems = Problems()
    assert stated_concept(table, "concept", problems) is None
    assert problems.found[0].startswith(message)


def test_paths_are_read_as_paths() -> None:
    problems = Problems()
    assert converted(Path, "~/x", "out", problems) == Path.home() / "x"
    assert converted(Path | None, "a b/c", "out", problems) == Path("a b/c")
    assert not problems.found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"x = 1\ny = \n", "expected TOML in .*line 2"),
        ("a.toml", b"x = 1\nx = 2\n", "expected TOML in .*Cannot overwrite a value.*line 2"),
        ("a.json", b'{"x": 1,\n "y": }', "expected JSON in .*line 2 column 7"),
        ("a.json", b"", "expected JSON in .*line 1"),
        ("a.json", b'{"x": {"y": 1, "y": 2}}', "expected each key once in .*found 'y' twice"),
        ("a.json", b"[{}, {}]", "expected one run in .*found a list of 2; write a file for each run"),
        ("a.json", b'"x"', "expected settings by name in .*found 'x'"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.toml", "x = 'ä'".encode("latin-1"), "expected UTF-8"),
        ("a.json", "{}".encode("utf-16"), "expected UTF-8"),
        ("a.yaml", b"x: 1", "found .*a.yaml; give it one of these endings"),
        ("a", b"x = 1", "give it one of these endings"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_words(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunFileError, match=message):
        read_run_file(tmp_path / name)


def test_a_file_of_another_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "A.JSON").write_bytes(b'\xef\xbb\xbf{"x": 1}')
    assert read_run_file(tmp_path / "a.toml") == read_run_file(tmp_path / "A.JSON") == {"x": 1}


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "circle.toml").write_text("")
    with pytest.raises(RunFileError, match=r"No such file.*did you mean .*circle\.toml"):
        read_run_file(tmp_path / "circel.toml")
    with pytest.raises(RunFileError, match="--write-config FILE writes one"):
        read_run_file(tmp_path / "none" / "x.toml")
    with pytest.raises(RunFileError, match="cannot read"):
        read_run_file(tmp_path)


def test_a_manifest_is_a_file_of_settings(tiny_pipe: Any, tmp_path: Path) -> None:
    recipe = replace(RECIPES["sd1/church"](), seed=5, found_synonyms={"chapel": 0.75})
    base = Base.from_pipeline(tiny_pipe, family="sd1", ids=("org/name", "other/name"), revision="f" * 40)
    manifest = Manifest(
        concept=recipe.concept,
        method=describe(recipe.method),
        base=base,
        license=recipe.license,
        recipe={"name": recipe.name, "seed": 5, "found_synonyms": {"chapel": 0.75}, "run": {"losses": {}}},
    )
    manifest.write(tmp_path)
    for path in (tmp_path, tmp_path / MANIFEST_NAME):
        values = read_run_file(path)
        assert (values["seed"], values["base"]) == (5, f"org/name@{'f' * 40}")
        assert replace(from_file(path), seed=5) == recipe


def test_without_its_package_toml_is_refused_and_json_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    with pytest.raises(RunFileError, match=r"expected the package tomli-w.*pip install '\.\[train\]'.*\.json"):
        write_run_file(tmp_path / "a.toml", {"x": 1})
    write_run_file(tmp_path / "a.json", {"x": 1, "y": None})
    assert read_run_file(tmp_path / "a.json") == {"x": 1}
    with pytest.raises(RunFileError, match=r"ends in \.toml or \.json"):
        write_run_file(tmp_path / "a.yaml", {})
    with pytest.raises(RunFileError, match="cannot write"):
        write_run_file(tmp_path / "a.json" / "b.json", {})
