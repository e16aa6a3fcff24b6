"""What an artifact states: taken by convert, added by annotate, demanded by push, carried by copies of its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused
from hub_client import connect
from hub_server import Hub, serve
from safetensors.torch import save_file

from robust_encoders import Base, Concept, Manifest, ManifestError, PushError, RobustEncoder
from robust_encoders.artifact.stated import is_blank, missing_facts
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state

STATED = ("--concept", "circle", "--kind", "object", "--method", "esd", "--license", "mit")


@pytest.fixture
def base(tiny_pipe: Any, tmp_path: Path) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def weights(tiny_encoder: RobustEncoder, config_folder: Path) -> Path:
    """A file of weights as others publish it: no facts beside it or inside."""
    save_file({name: tensor.clone() for name, tensor in tiny_encoder.tensors.items()}, config_folder / "a.safetensors")
    return config_folder / "a.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


BLANK = [
    "", " ", "\t\n", "-", "?", "...", "\u200b", "\u00a0", "not stated", "Not  Stated", "UNKNOWN", "n/a", "None",
    "tbd", "other",
]  # fmt: skip


@pytest.mark.parametrize("text", BLANK)
def test_a_text_that_states_nothing_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["circle", "Van Gogh", "裸体", "nothing in particular", "cc0-1.0", "unlicense", "3d"])
def test_a_text_that_states_something_is_not(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize("text", ["not stated", "unknown", "?", "\u200b"])
def test_a_blank_encoder_is_not_published(hub: Hub, tiny_encoder: RobustEncoder, text: str) -> None:
    blank = replace(
        tiny_encoder.manifest, concept=Concept(name=text, kind="object"), method={"name": text}, license=text
    )
    encoder = RobustEncoder(blank, tiny_encoder.tensors, tiny_encoder.config)
    with pytest.raises(PushError) as caught:
        encoder.push_to_hub("org/blank", token="hf_writer")
    for words in (
        "--concept WORDS",
        "--method NAME",
        "--license NAME",
        'encoder.annotate(license="...")',
        "nothing was sent",
    ):
        assert words in str(caught.value)
    assert hub.requests == []
    encoder.annotate(concept=Concept(name="circle", kind="object"), method="esd", license="mit")
    encoder.push_to_hub("org/blank", token="hf_writer")
    card = hub.repos["org/blank"].at("main").files["README.md"].decode()
    assert "# Circle, erased by ESD" in card
    assert "not stated" not in card.lower()


@pytest.mark.parametrize("fact", ["concept", "method", "licence"])
def test_one_missing_fact_is_named_alone(hub: Hub, tiny_encoder: RobustEncoder, fact: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "concept": {"concept": Concept(name="not stated", kind="object")},
        "method": {"method": {"name": None}},
        "licence": {"license": ""},
    }
    manifest = replace(tiny_encoder.manifest, **changes[fact])
    assert [one.fact for one in missing_facts(manifest)] == [fact]
    with pytest.raises(PushError, match=rf"found:\n  no {fact} \("):
        RobustEncoder(manifest, tiny_encoder.tensors, tiny_encoder.config).push_to_hub("org/x", token="hf_writer")
    assert hub.requests == []


def test_the_command_push_refuses_a_blank_encoder(
    hub: Hub, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(weights), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("push needs")] == [
        "push needs the concept", "push needs the method", "push needs the licence",
    ]  # fmt: skip
    assert "no concept" in refused(capsys, 1, "push", str(tmp_path / "out"), "org/x")
    assert hub.requests == []


def test_the_card_of_a_blank_encoder_states_nothing_false(weights: Path, tmp_path: Path) -> None:
    main(["convert", str(weights), str(tmp_path / "out")])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Not stated, erased by not stated" not in text
    assert "\n- not stated" not in text
    assert "# A concept that is not stated, erased\n" in text
    assert "robust-encoders annotate FOLDER --license NAME" in text


def test_the_tag_that_earlier_versions_wrote_goes(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    card = tmp_path / "a" / "README.md"
    card.write_text(card.read_text().replace("\n- test\n", "\n- not stated\n- none\n"))
    assert "- not stated" in card.read_text()
    tiny_encoder.save_pretrained(tmp_path / "a")
    assert "- not stated" not in card.read_text()
    assert all(f"\n- {tag}\n" in card.read_text() for tag in ("none", "test")), "the owner's tags stay"


def test_convert_takes_all_facts_and_the_base(
    weights: Path, base: Path, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--base", str(base), "--base-id", "org/base"]
    assert main(["convert", str(weights), str(tmp_path / "out"), *STATED, *named, "--json"]) == 0
    manifest = Manifest.from_json(capsys.readouterr().out)
    assert (manifest.concept.name, manifest.concept.kind) == ("circle", "object")
    assert (manifest.method["name"], manifest.license, manifest.base.ids) == ("esd", "mit", ("org/base",))
    expected = Base.from_pipeline(type(tiny_pipe).from_pretrained(base), family="x")
    assert (manifest.base.text_encoder, manifest.base.tokenizer) == (expected.text_encoder, expected.tokenizer)
    report = RobustEncoder.from_pretrained(tmp_path / "out").check(tiny_pipe)
    assert report["base fingerprint"].ok
    assert missing_facts(manifest) == []


def test_a_base_in_the_hubs_cache_is_known_by_its_id(weights: Path, base: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--a-base" / "snapshots" / ("a" * 40)
    shutil.copytree(base, cached)
    assert main(["convert", str(weights), str(tmp_path / "out"), *STATED, "--base", str(cached)]) == 0
    recorded = Manifest.read(tmp_path / "out").base
    assert (recorded.ids, recorded.revision) == (("org/a-base",), "a" * 40)


def test_a_base_that_the_encoder_does_not_fit_is_refused_before_anything_is_written(
    weights: Path, make_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pipe(width=32).save_pretrained(tmp_path / "wide")
    told = refused(capsys, 1, "convert", str(weights), str(tmp_path / "out"), "--base", str(tmp_path / "wide"))
    assert "does not fit" in told
    assert not (tmp_path / "out").exists()
    told = refused(capsys, 2, "convert", str(weights), str(tmp_path / "out"), "--base", str(tmp_path / "nowhere"))
    assert "model_index.json" in told
    assert not (tmp_path / "out").exists()


def test_an_artifact_is_not_overwritten_without_force(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(weights), str(out), *STATED]) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for source in (str(weights), "shapes/circle"):
        assert "pass --force" in refused(capsys, 2, "convert", source, str(out))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main(["convert", "shapes/circle", str(out), "--force"]) == 0
    assert Manifest.read(out).base.family == "shapes"


def test_options_that_state_nothing_are_refused_together(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--concept", " ", "--method", "unknown", "--license", "", "--base-id", "no-slash")
    for command in (("convert", str(weights), str(tmp_path / "out")), ("annotate", str(tmp_path))):
        told = refused(capsys, 2, *command, *wrong)
        assert all(name in told for name in ("--concept ' '", "--method 'unknown'", "--license ''", "no ORG/NAME"))
    assert not (tmp_path / "out").exists()


def test_facts_for_an_encoder_of_the_catalog_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, 2, "convert", "shapes/circle", str(tmp_path / "out"), "--license", "mit", "--base-id", "a/b")
    assert "expected no --base-id, --license for shapes/circle" in told


def test_facts_and_base_are_recorded_later(
    weights: Path, base: Path, tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["convert", str(weights), str(out)])
    content = RobustEncoder.from_pretrained(out).content_sha256
    warned = RobustEncoder.from_pretrained(out).check(tiny_pipe)["base fingerprint"]
    assert (warned.ok, "robust-encoders annotate FOLDER --base" in warned.remedy) == (False, True)
    assert main(["annotate", str(out), *STATED]) == 0
    assert main(["annotate", str(out), "--base", str(base)]) == 0
    assert main(["annotate", str(out), "--base-id", "org/base"]) == 0
    manifest = Manifest.read(out)
    assert missing_facts(manifest) == []
    assert manifest.base.ids == ("org/base",)
    assert manifest.base.text_encoder is not None
    encoder = RobustEncoder.from_pretrained(out)
    assert encoder.content_sha256 == content
    assert encoder.check(tiny_pipe)["base fingerprint"].ok
    assert "Weights: mit." in (out / "README.md").read_text()
    capsys.readouterr()
    assert "expected a fact to state" in refused(capsys, 2, "annotate", str(out))


def test_another_base_than_the_recorded_one_is_refused(
    tiny_encoder: RobustEncoder, make_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    make_pipe(seed=7).save_pretrained(tmp_path / "other")
    before = (tmp_path / "a" / "robust_encoder.json").read_bytes()
    told = refused(capsys, 1, "annotate", str(tmp_path / "a"), "--base", str(tmp_path / "other"))
    assert "a base with another text_encoder than the recorded one" in told
    assert (tmp_path / "a" / "robust_encoder.json").read_bytes() == before


def test_annotate_keeps_variants(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "model.fp16.safetensors").write_bytes(b"half")
    told = refused(capsys, 2, "annotate", str(tmp_path / "a"), "--license", "mit")
    assert "found model.fp16.safetensors, too" in told
    assert (tmp_path / "a" / "model.fp16.safetensors").read_bytes() == b"half"


def test_annotate_in_python_refuses_blanks_together_and_changes_nothing(tiny_encoder: RobustEncoder) -> None:
    before = tiny_encoder.manifest
    with pytest.raises(ManifestError, match=r"a concept that states nothing: '\?'; a method .*; a licence"):
        tiny_encoder.annotate(concept=Concept(name="?", kind="object"), method="n/a", license="unknown")
    assert tiny_encoder.manifest == before
    assert tiny_encoder.annotate(method="test").manifest == before, "the settings of the same method stay"
    assert tiny_encoder.annotate(method="esd").manifest.method == {"name": "esd"}


def test_a_copy_of_the_weights_is_converted_with_its_own_facts(
    tiny_encoder: RobustEncoder, config_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    shutil.copyfile(tmp_path / "a" / "model.safetensors", config_folder / "copy.safetensors")
    assert main(["convert", str(config_folder / "copy.safetensors"), str(tmp_path / "b")]) == 0
    one, other = tiny_encoder.manifest, Manifest.read(tmp_path / "b")
    assert (other.concept.name, other.concept.kind, other.license) == ("circle", "object", "apache-2.0")
    assert (other.method["name"], other.base.family, other.base.ids) == ("test", one.base.family, one.base.ids)
    options = ["--license", "mit", "--concept", "star", "--force"]
    assert main(["convert", str(config_folder / "copy.safetensors"), str(tmp_path / "b"), *options]) == 0
    stated = Manifest.read(tmp_path / "b")
    assert (stated.concept, stated.license) == (Concept(name="star", kind="content"), "mit")
    capsys.readouterr()


def test_facts_of_weights_that_were_changed_are_not_taken(
    tiny_encoder: RobustEncoder, config_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = {name: tensor + 1 for name, tensor in tiny_encoder.tensors.items()}
    save_file(changed, config_folder / "copy.safetensors", metadata=tiny_encoder.metadata)
    assert main(["convert", str(config_folder / "copy.safetensors"), str(tmp_path / "b")]) == 0
    assert [one.fact for one in missing_facts(Manifest.read(tmp_path / "b"))] == ["concept", "method", "licence"]
    assert "its facts are not taken over" in caplog.text


@pytest.mark.parametrize(
    "fact", [{"concept": 3}, {"concept": ""}, {"kind": "odd"}, {"base_ids": "org/x"}, {"license": None}]
)
def test_facts_of_another_type_are_refused(
    tiny_encoder: RobustEncoder, config_folder: Path, tmp_path: Path, fact: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    carried = {**json.loads(tiny_encoder.metadata["robust_encoders"]), **fact}
    words = {"format": "pt", "robust_encoders": json.dumps(carried)}
    save_file({n: t.clone() for n, t in tiny_encoder.tensors.items()}, config_folder / "a.safetensors", metadata=words)
    told = refused(capsys, 1, "convert", str(config_folder / "a.safetensors"), str(tmp_path / "out"))
    assert f"found {next(iter(fact))} of another type or empty" in told


def test_overlays_record_the_id_of_their_base(tiny_pipe: Any, base: Path, tmp_path: Path) -> None:
    changed = {n: v + 1 for n, v in tiny_pipe.unet.state_dict().items() if "attn2.to_k" in n or "attn2.to_v" in n}
    torch.save(changed, tmp_path / "uce.pt")
    options = [*STATED, "--base", str(base), "--base-id", "org/base"]
    assert main(["convert", str(tmp_path / "uce.pt"), str(tmp_path / "out"), *options]) == 0
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.form, manifest.base.ids) == ("delta", ("org/base",))
    assert nested_state(tiny_pipe.text_encoder).keys() == (manifest.base.text_encoder or {}).keys()
