"""A file of weights states its own provenance, in the same bytes every time, and never against its manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from overlays import make_adapter, make_delta, make_eraser, make_projection
from safetensors import safe_open
from torch import Tensor

from robust_encoders import Concept, IntegrityError, Manifest, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.forms import weights_name
from robust_encoders.artifact.manifest import FileRecord
from robust_encoders.artifact.provenance import embedded_provenance, metadata
from robust_encoders.artifact.tensor_files import file_bytes
from robust_encoders.cli.main import main
from robust_encoders.conversion.copied_file import copied_file
from robust_encoders.conversion.formats import A1111, COMFYUI, OPEN_CLIP, Layout, write
from robust_encoders.loaded import LoadedArtifact

MAKERS = (make_adapter, make_projection, make_delta, make_eraser)


def facts_of(artifact: LoadedArtifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        **artifact.provenance,
        "form": manifest.form,
        "component": manifest.component,
        "base_ids": list(manifest.base.ids),
    }


def weights_of(folder: Path) -> Path:
    return folder / weights_name(Manifest.read(folder).form)


@pytest.mark.parametrize("make", MAKERS)
def test_every_form_carries_it(tiny_pipe: Any, tmp_path: Path, make: Callable[[Any], LoadedArtifact]) -> None:
    artifact = make(tiny_pipe)
    artifact.save_pretrained(tmp_path / "a")
    with safe_open(weights_of(tmp_path / "a"), framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert list(json.loads(file.metadata()["robust_encoders"])) == sorted(facts_of(artifact))
    assert embedded_provenance(weights_of(tmp_path / "a")) == facts_of(artifact)
    assert RobustEncoder.from_pretrained(tmp_path / "a").content_sha256 == artifact.content_sha256


def test_a_whole_encoder_carries_it(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    shutil.copyfile(tmp_path / "a" / "model.safetensors", tmp_path / "renamed.safetensors")
    assert copied_file(tmp_path / "renamed.safetensors") == (facts_of(tiny_encoder), True)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom robust_encoders import RobustEncoder\n"
        "for place in sys.argv[1:]:\n"
        "    for name in ('circle', 'circle-spm', 'circle-rece'):\n"
        "        RobustEncoder.from_pretrained('shapes/' + name).save_pretrained(place + '/' + name)\n"
    )
    places = [str(tmp_path / run) for run in "1234"]
    for twice in (places[:2], places[2:]):
        subprocess.run([sys.executable, "-c", code, *twice], check=True, capture_output=True)
    digests = []
    for place in places:
        files = sorted(Path(place).rglob("*.safetensors"))
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert len(digests[0]) == 3
    assert digests == [digests[0]] * 4


@pytest.mark.parametrize("extra", range(9))
def test_the_header_stays_aligned_and_the_tensors_too(tmp_path: Path, extra: int) -> None:
    tensors = {"a": torch.arange(6, dtype=torch.float64).reshape(2, 3), "b": torch.tensor([True, False, True])}
    words = {"robust_encoders": "é" + "x" * extra, "format": "pt", "a": 'quotes " and \\ and \n'}
    data = file_bytes(tensors, words)
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert data == file_bytes(tensors, dict(reversed(words.items())))
    (tmp_path / "f").write_bytes(data)
    with safe_open(tmp_path / "f", framework="pt") as file:
        assert file.metadata() == words
    read = safetensors.torch.load(data)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("layout", [A1111, COMFYUI, OPEN_CLIP], ids=lambda layout: layout.name)
def test_a_file_for_another_application_carries_it(
    tiny_encoder: RobustEncoder, tmp_path: Path, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = write(tiny_encoder.tensors, layout)
    (tmp_path / "a.safetensors").write_bytes(file_bytes(exported, tiny_encoder.metadata))
    safetensors.torch.save_file(exported, tmp_path / "b.safetensors", metadata=tiny_encoder.metadata)
    for name in ("a", "b"):
        assert copied_file(tmp_path / f"{name}.safetensors") == (facts_of(tiny_encoder), True)
        assert main(["info", str(tmp_path / f"{name}.safetensors")]) == 0
        out = capsys.readouterr().out
        assert all(text in out for text in ("circle", "apache-2.0", "org/tiny", "unchanged"))


def test_weights_that_were_changed_since_are_told(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {name: tensor + 1 for name, tensor in tiny_encoder.tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(file_bytes(changed, tiny_encoder.metadata))
    assert main(["info", str(tmp_path / "a.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] is False


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{"]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    assert main(["info", str(tmp_path / "a.safetensors")]) == 1
    assert "expected safetensors in" in capsys.readouterr().err


def test_a_file_without_provenance_says_so_and_still_loads(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    resealed(tmp_path / "a", safetensors.torch.save(dict(tiny_encoder.tensors), metadata={"format": "pt"}))
    assert RobustEncoder.from_pretrained(tmp_path / "a").content_sha256 == tiny_encoder.content_sha256
    assert main(["info", str(tmp_path / "a" / "model.safetensors")]) == 1
    assert "expected provenance inside" in capsys.readouterr().err


def resealed(folder: Path, weights: bytes, **fields: Any) -> None:
    """Put other weights and facts into an artifact, as a forger or a tool would, with hashes that are right again."""
    path, manifest = weights_of(folder), Manifest.read(folder)
    path.write_bytes(weights)
    content = manifest.files[path.name].content_sha256
    record = FileRecord(sha256=hashlib.sha256(weights).hexdigest(), size=len(weights), content_sha256=content)
    replace(manifest, files={**manifest.files, path.name: record}, **fields).write(folder)


CHANGES: dict[str, dict[str, Any]] = {
    "license": {"license": "mit"},
    "concept": {"concept": Concept(name="star", kind="object")},
    "kind": {"concept": Concept(name="circle", kind="style")},
    "method": {"method": {"name": "esd"}},
}


@pytest.mark.parametrize("fact", CHANGES)
def test_a_manifest_that_was_changed_afterwards_is_refused(
    tiny_encoder: RobustEncoder, tmp_path: Path, fact: str
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    RobustEncoder.from_pretrained(tmp_path / "a")
    resealed(tmp_path / "a", weights_of(tmp_path / "a").read_bytes(), **CHANGES[fact])
    with pytest.raises(IntegrityError, match=rf"expected the same provenance in .*config\.json.*{fact}: '"):
        RobustEncoder.from_pretrained(tmp_path / "a")


def test_weights_that_state_other_facts_are_refused_and_all_are_named(
    tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    other = replace(tiny_encoder.manifest, license="mit", concept=Concept(name="star", kind="style"))
    resealed(tmp_path / "a", file_bytes(tiny_encoder.tensors, metadata(other, "0" * 64)))
    with pytest.raises(
        IntegrityError, match=r"model\.safetensors.*concept: 'star'.*kind: 'style'.*license: 'mit' in the"
    ):
        RobustEncoder.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("make", MAKERS)
def test_a_relabelled_overlay_is_refused(tiny_pipe: Any, tmp_path: Path, make: Callable[[Any], LoadedArtifact]) -> None:
    make(tiny_pipe).save_pretrained(tmp_path / "a")
    resealed(tmp_path / "a", weights_of(tmp_path / "a").read_bytes(), license="mit")
    with pytest.raises(IntegrityError, match=r"license: 'apache-2\.0' in the file, 'mit' in the manifest"):
        RobustEncoder.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"concept": 3}', '{"concept": ["circle"]}'])
def test_malformed_provenance_is_refused(tiny_encoder: RobustEncoder, tmp_path: Path, text: str) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    resealed(tmp_path / "a", file_bytes(tiny_encoder.tensors, {"format": "pt", "robust_encoders": text}))
    with pytest.raises(IntegrityError, match="provenance"):
        RobustEncoder.from_pretrained(tmp_path / "a")


def test_a_variant_may_keep_the_metadata_of_what_it_was_cast_from(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "a")
    half: dict[str, Tensor] = {name: tensor.half() for name, tensor in tiny_encoder.tensors.items()}
    data = file_bytes(half, tiny_encoder.metadata)
    (tmp_path / "a" / "model.fp16.safetensors").write_bytes(data)
    record = FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data), content_sha256=content_sha256(half))
    manifest = Manifest.read(tmp_path / "a")
    replace(manifest, files={**manifest.files, "model.fp16.safetensors": record}).write(tmp_path / "a")
    assert RobustEncoder.from_pretrained(tmp_path / "a", variant="fp16").dtype == torch.float16


def test_the_shipped_encoders_have_none_and_load() -> None:
    folder = Path(__file__).parents[3] / "robust_encoders" / "assets" / "shapes" / "encoders"
    assert {embedded_provenance(path) is None for path in folder.glob("*/*.safetensors")} == {True}
    assert RobustEncoder.from_pretrained("shapes/circle").manifest.concept.name == "circle"
