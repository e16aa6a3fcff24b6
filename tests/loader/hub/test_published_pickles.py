"""A catalog name whose weights are a pickle works from end to end: fetched, converted once, loaded, attached."""

from __future__ import annotations

import json
import logging
import threading
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from robust_encoders import CATALOG, CompatibilityWarning, IntegrityError, Manifest, RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.hub.download import HubOptions, commit_of
from robust_encoders.hub.pins import Pin, read_pins, write_pin
from robust_encoders.hub.published_pickles import converted, source_of
from robust_encoders.hub.resolve import resolve

COMMIT = "b" * 40
OTHER_SIZE = "ignore:expected pytorch_model.bin of:robust_encoders.CompatibilityWarning"


class Hub:
    """Stands for ``hf_hub_download``: a repository in a folder laid out as the cache is."""

    def __init__(self, root: Path, pipe: Any) -> None:
        self.folder = root / "snapshots" / COMMIT / "nudity_unlearned"
        self.folder.mkdir(parents=True)
        config = {**pipe.text_encoder.config.to_dict(), "dtype": "float32"}
        (self.folder / "config.json").write_text(json.dumps(config, default=str))
        self.state = {name: tensor + 1 for name, tensor in nested_state(pipe.text_encoder).items()}
        self.put(self.state)
        self.calls: list[tuple[str, str, Any]] = []

    def put(self, state: Any) -> None:
        positions = {"text_model.embeddings.position_ids": torch.arange(24)[None]}
        torch.save({**positions, **state}, self.folder / "pytorch_model.bin")

    def __call__(self, repo: str, name: str, *, subfolder: str, revision: str | None, **_: Any) -> str:
        self.calls.append((f"{repo}/{subfolder}", name, revision))
        return str(self.folder / name)


@pytest.fixture
def hub(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path / "cache", tiny_pipe)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    # The stand-in answers on machines without a network, too.
    monkeypatch.setattr("robust_encoders.hub.download.offline", lambda _: "")
    return fake


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_a_catalog_name_is_fetched_converted_and_attached(
    hub: Hub, tiny_pipe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        encoder = RobustEncoder.from_pretrained("nudity")
    repo = "OPTML-Group/AdvUnlearn/nudity_unlearned"
    assert hub.calls == [(repo, "config.json", None), (repo, "pytorch_model.bin", COMMIT)]
    assert encoder.content_sha256 == content_sha256(hub.state)
    assert "licence cc-by-4.0" in caplog.text
    with pytest.warns(CompatibilityWarning, match="base fingerprint"):
        encoder.attach(tiny_pipe)
    assert nested_state(tiny_pipe.text_encoder).keys() == hub.state.keys()
    assert all(torch.equal(tensor, hub.state[name]) for name, tensor in nested_state(tiny_pipe.text_encoder).items())


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_the_manifest_names_publisher_revision_and_licence_and_no_fingerprint(hub: Hub) -> None:
    manifest = RobustEncoder.from_pretrained("nudity").manifest
    source = manifest.recipe["source"]
    assert source["publisher"] == "OPTML-Group/AdvUnlearn, subfolder nudity_unlearned"
    assert (source["revision"], manifest.license) == (COMMIT, "cc-by-4.0")
    assert manifest.base.ids == CATALOG["nudity"].base_ids
    assert (manifest.base.text_encoder, manifest.base.tokenizer, manifest.base.revision) == (None, None, "")


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_it_is_converted_once_and_needs_no_network_from_then_on(hub: Hub, own_home: Path) -> None:
    first = RobustEncoder.from_pretrained("nudity")
    hub.calls.clear()
    again = RobustEncoder.from_pretrained("OPTML-Group/AdvUnlearn", subfolder="nudity_unlearned")
    assert (again.content_sha256, hub.calls) == (first.content_sha256, [])
    hub.put({name: tensor + 1 for name, tensor in hub.state.items()})
    assert RobustEncoder.from_pretrained("nudity").content_sha256 == first.content_sha256
    assert RobustEncoder.from_pretrained("nudity", force_download=True).content_sha256 != first.content_sha256
    assert len(hub.calls) == 2


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_a_revision_has_a_conversion_of_its_own_inside_the_folder(hub: Hub, own_home: Path) -> None:
    RobustEncoder.from_pretrained("nudity", revision="../../../elsewhere")
    assert [revision for _, _, revision in hub.calls] == ["../../../elsewhere", COMMIT]
    (folder,) = [path for path in (own_home / "converted").iterdir() if path.is_dir()]
    assert folder.name.startswith("nudity@")
    RobustEncoder.from_pretrained("nudity")
    assert (own_home / "converted" / "nudity").is_dir()


def test_a_size_that_nobody_saw_before_is_told(hub: Hub) -> None:
    with pytest.warns(CompatibilityWarning, match=r"of nudity with 492314807 bytes, .* its publisher changed it"):
        RobustEncoder.from_pretrained("nudity")


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_a_pickle_other_than_the_pinned_one_is_refused_unread(hub: Hub, own_home: Path) -> None:
    RobustEncoder.from_pretrained("nudity")
    key = resolve("nudity", subfolder="", revision=None).key
    seen = source_of(Manifest.read(own_home / "converted" / "nudity"))
    write_pin(key, seen)
    RobustEncoder.from_pretrained("nudity")
    (hub.folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(IntegrityError, match=r"expected OPTML-Group/AdvUnlearn/nudity_unlearned as pinned"):
        RobustEncoder.from_pretrained("nudity", force_download=True)
    assert RobustEncoder.from_pretrained("nudity").content_sha256 == content_sha256(hub.state)


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_a_conversion_other_than_the_pinned_one_is_refused(hub: Hub) -> None:
    RobustEncoder.from_pretrained("nudity")
    key = resolve("nudity", subfolder="", revision=None).key
    seen = source_of(RobustEncoder.from_pretrained("nudity").manifest)
    ((name, record),) = seen.files.items()
    write_pin(key, Pin(files={name: type(record)(**{**vars(record), "content_sha256": "0" * 64})}))
    with pytest.raises(IntegrityError, match="contents 000000"):
        RobustEncoder.from_pretrained("nudity")
    assert list(read_pins()) == [key]


def test_a_hostile_pickle_is_refused_and_leaves_nothing(hub: Hub, own_home: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "trace",)

    hub.put({"a": Hostile()})
    with (
        pytest.warns(CompatibilityWarning, match="its publisher changed it"),
        pytest.raises(IntegrityError, match="nothing in it was run"),
    ):
        RobustEncoder.from_pretrained("nudity")
    assert not (tmp_path / "trace").exists()
    assert not (own_home / "converted" / "nudity").exists()


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_a_zip_bomb_under_a_catalog_name_is_refused_and_leaves_nothing(hub: Hub, own_home: Path) -> None:
    path = hub.folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as source:
        members = [(info.filename, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr("archive/data/bomb", bytes(10**7))
    with pytest.raises(IntegrityError, match="compressed member"):
        RobustEncoder.from_pretrained("nudity")
    assert not (own_home / "converted" / "nudity").exists()


@pytest.mark.filterwarnings(OTHER_SIZE)
def test_many_at_once_convert_once(hub: Hub) -> None:
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(converted(CATALOG["nudity"], "", HubOptions())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 1
    assert len(hub.calls) == 2


def test_the_commit_is_read_off_the_cache_alone() -> None:
    assert commit_of(Path(f"/cache/models--o--r/snapshots/{COMMIT}/sub")) == COMMIT
    assert commit_of(Path(f"/cache/models--o--r/snapshots/{COMMIT}")) == COMMIT
    assert commit_of(Path("/snapshots/main/sub")) == commit_of(Path("/some/folder")) == ""
