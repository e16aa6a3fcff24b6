"""Whether the catalog can list an artifact: every demand by itself, in a folder and on the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from commands import refused
from hub_client import connect
from hub_server import WRITER, Hub, serve
from overlays import make_delta

from robust_encoders import CatalogEntry, Concept, Manifest, RobustEncoder
from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.artifact.manifest import FileRecord
from robust_encoders.cli.main import main
from robust_encoders.conversion.files import file_record
from robust_encoders.hub.readiness import LARGEST_OTHER, readiness

REPO = "org/circle"
RESULT = {"value": 0.1, "n": 80, "interval": [0.0, 0.2], "prompt_set": "p", "origin": "measured"}
MEASURED: tuple[dict[str, Any], ...] = (
    {**RESULT, "metric": "asr_any", "settings": {"attack": {"name": "p4d", "label": "p4d"}}},
    {**RESULT, "metric": "clip_score"},
)


@pytest.fixture
def encoder(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> RobustEncoder:
    """An encoder that meets every demand."""
    return make_encoder(tiny_pipe, results=MEASURED)


@pytest.fixture
def folder(encoder: RobustEncoder, tmp_path: Path) -> Path:
    encoder.save_pretrained(tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


def unmet(name: str | Path) -> list[str]:
    found = readiness(name).demands
    assert all(demand.remedy for demand in found if not demand.ok)
    return [demand.name for demand in found if not demand.ok]


def test_an_artifact_that_meets_every_demand_is_ready(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unmet(folder) == []
    assert main(["ready", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ready to be pushed")


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "concept": ({"concept": Concept(name="unknown", kind="object")}, ["concept"]),
    "method": ({"method": {"name": "not stated"}}, ["method"]),
    "licence": ({"license": ""}, ["licence"]),
    "no numbers": ({"results": ()}, ["measured under attack", "measured on what is kept"]),
    "no attack": ({"results": MEASURED[1:]}, ["measured under attack"]),
    "attack none": (
        {"results": ({**MEASURED[0], "settings": {"attack": {"name": "none"}}}, MEASURED[1])},
        ["measured under attack"],
    ),
    "reported": (
        {"results": tuple({**one, "origin": "reported"} for one in MEASURED)},
        ["measured under attack", "measured on what is kept"],
    ),
    "withdrawn": (
        {"results": (MEASURED[0], {**MEASURED[1], "settings": {"doubts": ["withdrawn: wrong"]}})},
        ["measured on what is kept"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_fact_and_number_is_demanded(encoder: RobustEncoder, tmp_path: Path, change: str) -> None:
    fields, expected = CHANGES[change]
    manifest = replace(encoder.manifest, **fields)
    RobustEncoder(manifest, encoder.tensors, encoder.config).save_pretrained(tmp_path / "b")
    assert unmet(tmp_path / "b") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ids": ()}, "base id"),
        ({"family": "not stated"}, "base family"),
        ({"text_encoder": None}, "base fingerprints"),
        ({"tokenizer": None}, "base fingerprints"),
    ],
)
def test_the_base_is_demanded(encoder: RobustEncoder, tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    manifest = replace(encoder.manifest, base=replace(encoder.manifest.base, **fields))
    RobustEncoder(manifest, encoder.tensors, encoder.config).save_pretrained(tmp_path / "b")
    assert unmet(tmp_path / "b") == [expected]


@pytest.mark.parametrize("family", EMBEDDED)
def test_an_embedded_base_has_a_name_in_place_of_an_id(encoder: RobustEncoder, tmp_path: Path, family: str) -> None:
    base = replace(encoder.manifest.base, ids=(), family=family)
    RobustEncoder(replace(encoder.manifest, base=base), encoder.tensors, encoder.config).save_pretrained(tmp_path / "b")
    assert unmet(tmp_path / "b") == []


def test_a_changed_unet_needs_the_fingerprint_of_its_unet(tiny_pipe: Any, tmp_path: Path) -> None:
    overlay = make_delta(tiny_pipe)
    overlay.manifest = replace(overlay.manifest, results=MEASURED, base=replace(overlay.manifest.base, ids=("org/b",)))
    overlay.save_pretrained(tmp_path / "b")
    assert unmet(tmp_path / "b") == []
    overlay.manifest = replace(overlay.manifest, base=replace(overlay.manifest.base, unet=None))
    overlay.save_pretrained(tmp_path / "b")
    assert unmet(tmp_path / "b") == ["base fingerprints"]


def test_the_card_is_demanded(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for text in ("", "my own words", card.replace("Circle, erased by", "Star, erased by")):
        (folder / "README.md").write_text(text)
        assert unmet(folder) == ["card"]
    (folder / "README.md").unlink()
    assert unmet(folder) == ["card"]
    (folder / "README.md").write_text(card + "\nmy own words\n")
    assert unmet(folder) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.PT", "sub/run.py", "x.pkl", "state.ckpt"])
def test_pickles_and_code_are_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert unmet(folder) == ["safetensors only"]
    assert name in next(demand.found for demand in readiness(folder).demands if not demand.ok)


def test_large_files_that_nobody_verifies_are_named(folder: Path) -> None:
    with (folder / "other.safetensors").open("wb") as file:
        file.truncate(LARGEST_OTHER + 1)
    assert unmet(folder) == ["size"]
    (folder / ".git").mkdir()
    (folder / "other.safetensors").rename(folder / ".git" / "pack")
    assert unmet(folder) == []


def test_weights_of_an_earlier_version_lack_provenance(folder: Path, encoder: RobustEncoder) -> None:
    safetensors.torch.save_file(dict(encoder.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    manifest, record = Manifest.read(folder), file_record(folder / "model.safetensors")
    sealed = FileRecord(sha256=record.sha256, size=record.size, content_sha256=encoder.content_sha256)
    replace(manifest, files={**manifest.files, "model.safetensors": sealed}).write(folder)
    assert unmet(folder) == ["provenance in the weights"]
    assert main(["annotate", str(folder), "--license", "mit"]) == 0
    assert unmet(folder) == []


def test_everything_that_is_missing_is_told_at_once(
    encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(encoder.manifest, license="", results=(), base=replace(encoder.manifest.base, text_encoder=None))
    RobustEncoder(bare, encoder.tensors, encoder.config).save_pretrained(tmp_path / "b")
    assert main(["ready", str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "not ready: 4 of 11 demands are not met"
    for text in ("annotate FOLDER --license", "annotate FOLDER --base", "evaluate FOLDER --record"):
        assert text in out


def test_a_damaged_artifact_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert "model.safetensors" in refused(capsys, 1, "ready", str(folder))


def test_a_name_in_the_catalog_is_listed_already(capsys: pytest.CaptureFixture[str]) -> None:
    assert "which it lists" in refused(capsys, 2, "ready", "shapes/circle")
    assert "expected an encoder's name" in refused(capsys, 2, "ready", "no-such-thing")


def test_a_published_artifact_prints_its_entry(
    hub: Hub, encoder: RobustEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.push_to_hub(REPO, token=WRITER)
    commit = hub.repos[REPO].branches["main"]
    assert main(["ready", REPO, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert (told["entry"]["repo"], told["entry"]["revision"]) == (REPO, commit)
    entry = CatalogEntry(name="circle-of-org", **{**told["entry"], "base_ids": tuple(told["entry"]["base_ids"])})
    manifest = RobustEncoder.from_pretrained(REPO, revision=commit).manifest
    assert entry.pin == commit
    assert entry.sha256 == {name: record.sha256 for name, record in manifest.files.items()}
    assert main(["ready", REPO, "--revision", commit]) == 0
    assert f"ready: {REPO} at revision {commit}" in capsys.readouterr().out


def test_what_is_private_or_unsafe_on_the_hub_is_named(
    hub: Hub, encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    encoder.push_to_hub(REPO, private=True)
    repo = hub.repos[REPO]
    assert unmet(REPO) == ["published"]
    repo.private = False
    repo.commit({**repo.at("main").files, "old.bin": b"x"}, "by hand")
    assert unmet(REPO) == ["safetensors only"]
    files = {name: data for name, data in repo.at("main").files.items() if name not in ("old.bin", "README.md")}
    repo.commit({**files, "large.dat": b"x" * (LARGEST_OTHER + 1)}, "by hand")
    assert unmet(REPO) == ["card", "size"]
