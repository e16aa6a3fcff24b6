"""The manifest survives writing and reading, and says everything that is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robust_encoders import Base, Concept, FileRecord, Manifest, ManifestError, RobustEncoder
from robust_encoders.artifact.manifest import MANIFEST_NAME


@pytest.fixture
def manifest(tiny_encoder: RobustEncoder) -> Manifest:
    return replace(
        tiny_encoder.manifest,
        files={"config.json": FileRecord(sha256="a" * 64, size=3), "x/y": FileRecord(sha256="b" * 64, size=0)},
        recipe={"steps": 3, "rates": [0.1, 1e-5], "text": "[\n 1,\n 2\n]"},
        results=({"metric": "asr", "value": 0.5},),
    )


def body(manifest: Manifest) -> Any:
    return json.loads(manifest.to_json())


def test_reading_gives_back_what_was_written(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert Manifest.read(str(tmp_path)).to_json() == manifest.to_json()


def test_a_minimal_manifest_survives(tmp_path: Path) -> None:
    minimal = Manifest(concept=Concept(name="x", kind="style"), method={"name": "m"}, base=Base(family="f"))
    minimal.write(tmp_path)
    assert Manifest.read(tmp_path) == minimal


def test_a_joint_concept_survives_and_a_single_one_is_written_as_ever(manifest: Manifest) -> None:
    parts = (Concept(name="red", kind="attribute", anchor="green"), Concept(name="circle", kind="object"))
    joint = replace(manifest, concept=Concept.joint(parts))
    assert Manifest.from_json(joint.to_json()) == joint
    assert "parts" not in body(manifest)["concept"]
    data = body(joint)
    data["concept"]["parts"][1]["kind"] = "thing"
    del data["concept"]["parts"][0]["anchor"]
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(data))
    assert "manifest.concept.parts[0].anchor: expected this field" in str(caught.value)


def test_every_list_of_numbers_is_one_line(manifest: Manifest) -> None:
    values = [line for line in manifest.to_json().splitlines() if '"values"' in line]
    assert values
    assert all(line.rstrip(",").endswith("]") for line in values)


def test_the_hash_does_not_depend_on_the_order_of_keys(manifest: Manifest) -> None:
    reordered = replace(manifest, recipe={key: manifest.recipe[key] for key in reversed(list(manifest.recipe))})
    assert reordered.manifest_sha256 == manifest.manifest_sha256


@pytest.mark.parametrize("change", [{"license": "mit"}, {"recipe": {}}, {"files": {}}, {"versions": {"torch": "1"}}])
def test_the_hash_sees_every_field(manifest: Manifest, change: dict[str, Any]) -> None:
    assert replace(manifest, **change).manifest_sha256 != manifest.manifest_sha256


def test_an_edit_by_hand_is_refused(manifest: Manifest) -> None:
    edited = manifest.to_json().replace("apache-2.0", "mit")
    with pytest.raises(ManifestError, match="edited after it was written"):
        Manifest.from_json(edited)


def test_a_missing_manifest_says_where(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=MANIFEST_NAME):
        Manifest.read(tmp_path)


def test_something_else_than_json_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected JSON"):
        Manifest.from_json("{")


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected an object"):
        Manifest.from_json("[]")


def test_a_newer_schema_is_refused_with_the_remedy(manifest: Manifest) -> None:
    newer = json.dumps({**body(manifest), "schema": 2, "unheard": "of"})
    with pytest.raises(ManifestError, match="found 2; upgrade robust_encoders"):
        Manifest.from_json(newer)


def test_every_problem_is_named_at_once(manifest: Manifest) -> None:
    data = body(manifest)
    data["form"] = "essence"
    data["method"] = {}
    data["concept"]["kind"] = "thing"
    data["base"]["ids"] = "one"
    data["base"]["tokenizer"]["max_length"] = "long"
    next(iter(data["base"]["unet"].values()))["values"] = ["a"]
    data["files"]["config.json"]["sha256"] = "short"
    data["files"]["../up"] = data["files"]["x/y"]
    del data["license"]
    data["extra"] = 1
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(data))
    for where in (
        "manifest.form", "manifest.method", "concept: ", "manifest.base.ids", "tokenizer.max_length", ".values",
        "files.config.json.sha256", "'../up'", "manifest.license", "manifest.extra",
    ):  # fmt: skip
        assert where in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../b", "./a"])
def test_paths_outside_the_artifact_are_refused(manifest: Manifest, path: str) -> None:
    data = body(manifest)
    data["files"] = {path: data["files"]["x/y"]}
    with pytest.raises(ManifestError, match="inside the artifact"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_a_value_without_a_json_form_is_refused_when_written(manifest: Manifest, value: object) -> None:
    with pytest.raises(ManifestError, match="JSON cannot"):
        replace(manifest, recipe={"value": value}).to_json()


def test_a_mapping_of_any_kind_is_written(manifest: Manifest) -> None:
    from types import MappingProxyType

    written = replace(manifest, recipe={"inner": MappingProxyType({"a": 1})}).to_json()
    assert Manifest.from_json(written).recipe == {"inner": {"a": 1}}


def test_a_base_is_fingerprinted_from_its_pipeline(tiny_pipe: Any) -> None:
    base = Base.from_pipeline(tiny_pipe, family="tiny", ids=("a/b",), revision="main")
    assert base.unet is None
    assert base.text_encoder is not None
    assert all(name.startswith("text_model.") for name in base.text_encoder)
    assert (base.family, base.ids, base.revision) == ("tiny", ("a/b",), "main")
