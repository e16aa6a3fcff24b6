"""Every way in which the Hub can fail has words; only named files are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from robust_encoders import DownloadError, ManifestError
from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.hub.download import HubOptions, fetch_artifact, fetch_file


class FakeHub:
    """Stands for ``hf_hub_download``: remembers its calls, answers from a folder or with an error."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.folders: list[Path] = [Path("/cache/snapshots/1")]

    def __call__(self, repo: str, name: str, **options: Any) -> str:
        self.calls.append((repo, name, options))
        if self.error is not None:
            raise self.error
        return str(self.folders[len(self.calls) % len(self.folders)] / name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    return fake


def test_options_reach_the_hub_by_their_names(hub: FakeHub) -> None:
    options = HubOptions(revision="v1", cache_dir="c", token="t", local_files_only=True, force_download=True)
    assert fetch_file("o/r", "config.json", subfolder="sub", options=options) == Path("/cache/snapshots/1/config.json")
    repo, name, sent = hub.calls[0]
    assert (repo, name) == ("o/r", "config.json")
    assert sent == {
        "subfolder": "sub",
        "revision": "v1",
        "cache_dir": "c",
        "token": "t",
        "local_files_only": True,
        "force_download": True,
        "library_name": "robust-encoders",
    }


def test_only_the_named_files_are_fetched(hub: FakeHub) -> None:
    names = (MANIFEST_NAME, "config.json", "model.safetensors")
    asked: list[Path] = []

    def others(folder: Path) -> tuple[str, ...]:
        asked.append(folder)
        return names[1:]

    folder = fetch_artifact("o/r", names[0], others, subfolder="", options=HubOptions())
    assert folder == Path("/cache/snapshots/1")
    assert asked == [folder]
    assert [name for _, name, _ in hub.calls] == list(names)
    assert all(sent["subfolder"] is None for _, _, sent in hub.calls)


def test_a_branch_that_moves_meanwhile_is_refused(hub: FakeHub) -> None:
    hub.folders.append(Path("/cache/snapshots/2"))
    with pytest.raises(DownloadError, match="from one commit"):
        fetch_artifact("o/r", "a", lambda _: ("b",), subfolder="", options=HubOptions())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.GatedRepoError, "is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "expected a repository at o/r/sub, found none"),
        (errors.RevisionNotFoundError, "expected revision 'v9'"),
        (errors.LocalEntryNotFoundError, "not in the cache"),
        (errors.EntryNotFoundError, "the artifact there is incomplete"),
        (errors.HfHubHTTPError, "the Hub refused config.json"),
        (errors.HFValidationError, "expected a repository as org/name"),
    ],
)
def test_every_failure_is_put_in_words(hub: FakeHub, kind: type[Exception], words: str) -> None:
    hub.error = kind.__new__(kind, "the server's words")
    with pytest.raises(DownloadError, match=words) as caught:
        fetch_file("o/r", "config.json", subfolder="sub", options=HubOptions(revision="v9"))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_repository_without_a_manifest_is_no_artifact(hub: FakeHub) -> None:
    hub.error = errors.EntryNotFoundError.__new__(errors.EntryNotFoundError)
    with pytest.raises(ManifestError, match="no robust_encoders artifact"):
        fetch_file("o/r", MANIFEST_NAME, subfolder="", options=HubOptions())
