"""``verify``, ``pin``, ``unpin`` and ``convert``: the same facts for people and for programs, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import Manifest, RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.hub.pins import Pin, pins_file, read_pins, write_pin


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def source(tiny_pipe: Any, config_folder: Path) -> Path:
    torch.save(nested_state(tiny_pipe.text_encoder), config_folder / "weights.pt")
    return config_folder


def damage(artifact: Path) -> None:
    data = bytearray((artifact / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (artifact / "model.safetensors").write_bytes(data)


def test_verify_shows_every_hash(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(artifact)]) == 0
    out = capsys.readouterr().out
    for record in Manifest.read(artifact).files.values():
        assert record.sha256 in out
        assert record.content_sha256 in out
    assert out.splitlines()[-1] == f"verified: {artifact.resolve()}, not pinned"


def test_verify_says_no_to_people_and_to_programs(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(artifact)
    assert main(["verify", str(artifact)]) == 1
    out, err = capsys.readouterr()
    assert (out, "changed or cut off" in err) == ("", True)
    assert main(["verify", str(artifact), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"]
    assert "changed or cut off" in answer["problem"]


def test_verify_looks_at_every_variant(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.read(artifact)
    data = (artifact / "model.safetensors").read_bytes()
    (artifact / "model.fp16.safetensors").write_bytes(data)
    files = {**manifest.files, "model.fp16.safetensors": manifest.files["model.safetensors"]}
    replace(manifest, files=files).write(artifact)
    assert main(["verify", str(artifact)]) == 0
    (artifact / "model.fp16.safetensors").write_bytes(data[:-1])
    assert main(["verify", str(artifact)]) == 1
    assert "model.fp16.safetensors" in capsys.readouterr().err


def test_a_pin_is_kept_and_enforced(
    artifact: Path, tiny_pipe: Any, make_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", str(artifact), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert read_pins()[answer["place"]].to_dict() == {"files": answer["files"], "revision": ""}
    assert main(["verify", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pinned"]
    make_encoder(tiny_pipe, seed=7).save_pretrained(artifact)
    for arguments in (["info", str(artifact)], ["verify", str(artifact)], ["pin", str(artifact)]):
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert (out, "as pinned in" in err) == ("", True)
    assert main(["pin", str(artifact), "--replace"]) == 0
    assert "pinned: " in capsys.readouterr().out
    assert main(["info", str(artifact)]) == 0


def test_what_is_unpinned_is_accepted_again(
    artifact: Path, tiny_pipe: Any, make_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", str(artifact), "--json"]) == 0
    pinned = json.loads(capsys.readouterr().out)
    make_encoder(tiny_pipe, seed=7).save_pretrained(artifact)
    assert main(["info", str(artifact)]) == 1
    capsys.readouterr()
    assert main(["unpin", str(artifact)]) == 0
    out = capsys.readouterr().out
    assert pinned["files"]["model.safetensors"]["sha256"] in out
    assert out.splitlines()[-1] == f"no longer pinned: {artifact.resolve()}, in {pins_file()}"
    assert read_pins() == {}
    assert main(["info", str(artifact)]) == 0


def test_unpin_tells_programs_what_was_removed(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pin", str(artifact), "--json"]) == 0
    pinned = json.loads(capsys.readouterr().out)
    assert main(["unpin", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**pinned, "ok": True}
    assert main(["unpin", str(artifact), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"]
    assert "expected a place with a pin, found none at" in answer["problem"]


def test_a_pin_is_removed_by_its_name_in_the_catalog_or_among_the_pins(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nudity", "OPTML-Group/AdvUnlearn/nudity_unlearned"):
        write_pin("OPTML-Group/AdvUnlearn/nudity_unlearned", Pin(files={}, revision="f" * 40))
        assert main(["unpin", name]) == 0
        assert f"nudity_unlearned at revision {'f' * 40}" in capsys.readouterr().out
        assert read_pins() == {}


def test_the_pin_of_a_folder_that_is_gone_is_removed(artifact: Path) -> None:
    assert main(["pin", str(artifact)]) == 0
    artifact.rename(artifact.with_name("elsewhere"))
    assert main(["unpin", str(artifact)]) == 0
    assert read_pins() == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nudty", "Did you mean 'nudity'"),
        ("vangogh", "found none at 'OPTML-Group/AdvUnlearn/vangogh_unlearned'"),
        ("org/nam", "Did you mean 'org/name'"),
        ("./gone", "Pinned in"),
    ],
)
def test_unpin_says_what_is_pinned_instead(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpin", name]) == 1
    assert f"Nothing is pinned in {pins_file()}" in capsys.readouterr().err
    write_pin("org/name", Pin(files={}))
    assert main(["unpin", name]) == 1
    out, err = capsys.readouterr()
    assert (out, words in err, "org/name" in err) == ("", True, True)
    assert list(read_pins()) == ["org/name"]


def test_a_damaged_artifact_is_not_pinned(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(artifact)
    assert main(["pin", str(artifact)]) == 1
    assert read_pins() == {}


@pytest.mark.parametrize("command", [["verify", "nudty"], ["pin", "nudty"], ["convert", "nudty", "out"]])
def test_a_wrong_name_is_corrected(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert (out, "Did you mean 'nudity'" in err) == ("", True)


def test_convert_states_what_it_was_told(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = ["--concept", "a word", "--kind", "object", "--method", "m", "--license", "mit", "--publisher", "me"]
    assert main(["convert", str(source), str(tmp_path / "out"), *stated]) == 0
    assert "weights.pt (transformers)" in capsys.readouterr().out
    manifest = RobustEncoder.from_pretrained(tmp_path / "out").manifest
    assert (manifest.concept.name, manifest.concept.kind, manifest.license) == ("a word", "object", "mit")
    assert (manifest.method, manifest.recipe["source"]["publisher"]) == ({"name": "m"}, "me")


def test_convert_answers_programs_with_the_manifest(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "config.json").rename(tmp_path / "other.json")
    arguments = ["convert", str(source / "weights.pt"), str(tmp_path / "out"), "--json"]
    assert main(arguments) == 1
    assert "--config FILE" in capsys.readouterr().err
    assert main([*arguments, "--config", str(tmp_path / "other.json")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "robust_encoder.json").read_text())


def test_convert_overwrites_nothing_else(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source / "weights.pt"), str(source)]) == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.base
def test_convert_copies_what_the_catalog_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "shapes/circle", str(tmp_path / "out")]) == 0
    copied = RobustEncoder.from_pretrained(tmp_path / "out")
    assert copied.content_sha256 == RobustEncoder.from_pretrained("shapes/circle").content_sha256
