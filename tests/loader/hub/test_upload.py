"""The real client of the Hub against a small Hub on loopback: push, pull, attach, and all that can go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_client import connect, reset_sessions
from hub_server import READER, WRITER, Hub, Repo, serve
from huggingface_hub import constants
from overlays import make_delta, make_eraser

from robust_encoders import CardError, DownloadError, IntegrityError, ManifestError, Overlay, PushError, RobustEncoder
from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.cli.main import main

REPO = "org/circle"
FILES = {".gitattributes", "README.md", "config.json", "model.safetensors", MANIFEST_NAME}
Maker = Callable[..., RobustEncoder]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub that this process's client talks to, with a cache and without a token of its own.

    The client reads its environment once, at its first import; ``test_a_process_of_its_own`` goes that way.
    """
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def pushed(hub: Hub, tiny_encoder: RobustEncoder) -> Repo:
    """A repository with an artifact."""
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    return hub.repos[REPO]


def card_of(repo: Repo, revision: str = "main") -> str:
    return repo.at(revision).files["README.md"].decode()


def add(repo: Repo, **files: bytes) -> None:
    """Commit files; double underscores stand for dots."""
    named = {name.replace("__", "."): data for name, data in files.items()}
    repo.commit({**repo.at("main").files, **named}, "by hand")


@pytest.mark.parametrize("make", [make_delta, make_eraser])
def test_a_changed_unet_goes_there_and_back(hub: Hub, tiny_pipe: Any, make: Callable[..., Overlay]) -> None:
    overlay = make(tiny_pipe)
    overlay.push_to_hub(REPO, token=WRITER)
    read = RobustEncoder.from_pretrained(REPO, token=READER)
    assert isinstance(read, Overlay)
    assert (read.identity, read.config) == (overlay.identity, overlay.config)
    assert f"{overlay.manifest.form}.safetensors" in hub.repos[REPO].at("main").files
    read.attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).overlays == (overlay.label,)


def test_what_was_pushed_is_pulled_and_attached(hub: Hub, tiny_encoder: RobustEncoder, tiny_pipe: Any) -> None:
    url = tiny_encoder.push_to_hub(REPO, token=WRITER)
    repo = hub.repos[REPO]
    assert url == f"{hub.url}/{REPO}/commit/{repo.branches['main']}"
    assert [commit.message for commit in repo.commits.values()] == ["initial commit", "circle erased by test"]
    assert set(repo.at("main").files) == FILES
    pulled = RobustEncoder.from_pretrained(REPO)
    assert pulled.content_sha256 == tiny_encoder.content_sha256
    assert pulled.attach(tiny_pipe)("a circle", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


def test_only_the_named_files_are_fetched(hub: Hub, pushed: Repo) -> None:
    hub.requests.clear()
    RobustEncoder.from_pretrained(REPO)
    asked = {path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path}
    assert asked == {MANIFEST_NAME, "config.json", "model.safetensors"}


def test_the_card_names_the_repository(pushed: Repo) -> None:
    assert f'from_pretrained("{REPO}")' in card_of(pushed)


def test_pushing_the_same_again_makes_no_commit(pushed: Repo, tiny_encoder: RobustEncoder) -> None:
    before = dict(pushed.branches)
    url = tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert pushed.branches == before
    assert url.endswith(before["main"])


def test_a_card_that_is_there_is_merged(pushed: Repo, make_encoder: Maker, tiny_pipe: Any) -> None:
    add(pushed, README__md=card_of(pushed).replace("---\n", "---\nlanguage: en\n", 1).encode() + b"\nmy words\n")
    make_encoder(tiny_pipe, name="star").push_to_hub(REPO, token=WRITER)
    text = card_of(pushed)
    assert "language: en" in text
    assert "my words" in text
    assert "**star**" in text
    assert "circle" not in text.replace(REPO, "")


def test_a_card_that_cannot_be_merged_stops_the_push(pushed: Repo, tiny_encoder: RobustEncoder) -> None:
    add(pushed, README__md=b"---\na: [\n---\n")
    head = pushed.branches["main"]
    with pytest.raises(CardError):
        tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert pushed.branches["main"] == head


def test_metadata_that_the_hub_refuses_stops_the_push(hub: Hub, pushed: Repo, tiny_encoder: RobustEncoder) -> None:
    add(pushed, README__md=b"---\nlicense: 3\n---\n")
    tiny_encoder.push_to_hub(REPO, token=WRITER)  # the licence of the manifest takes the place of the wrong one
    add(pushed, README__md=b"---\nlanguage: 3\n---\n")
    with pytest.raises(PushError, match=r'finds fault with the model card for org/circle.*"language" must be a string'):
        tiny_encoder.push_to_hub(REPO, token=WRITER)


def test_variants_of_older_weights_are_removed_and_nothing_else(
    pushed: Repo, make_encoder: Maker, tiny_pipe: Any
) -> None:
    add(pushed, model__fp16__safetensors=b"old weights", notes__txt=b"mine")
    make_encoder(tiny_pipe, seed=2).push_to_hub(REPO, token=WRITER)
    assert set(pushed.at("main").files) == FILES | {"notes.txt"}


def test_a_branch_is_made_and_pulled_from(
    pushed: Repo, make_encoder: Maker, tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    other = make_encoder(tiny_pipe, seed=2)
    other.push_to_hub(REPO, token=WRITER, revision="next", commit_message="a try")
    assert pushed.at("next").message == "a try"
    assert RobustEncoder.from_pretrained(REPO, revision="next").content_sha256 == other.content_sha256
    assert RobustEncoder.from_pretrained(REPO).content_sha256 == tiny_encoder.content_sha256
    commit = pushed.branches["next"]
    assert RobustEncoder.from_pretrained(REPO, revision=commit).content_sha256 == other.content_sha256


def test_a_pull_request_leaves_the_branch_alone(hub: Hub, pushed: Repo, make_encoder: Maker, tiny_pipe: Any) -> None:
    head = pushed.branches["main"]
    url = make_encoder(tiny_pipe, seed=2).push_to_hub(REPO, token=WRITER, create_pr=True)
    assert url == f"{hub.url}/{REPO}/discussions/1"
    assert pushed.branches["main"] == head
    assert set(pushed.at("refs/pr/1").files) == FILES


def test_a_pull_request_makes_no_repository(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    with pytest.raises(PushError, match="expected a repository at org/circle, found none"):
        tiny_encoder.push_to_hub(REPO, token=WRITER, create_pr=True)
    assert hub.repos == {}


@pytest.mark.parametrize("token", [None, READER])
def test_a_push_without_permission_changes_nothing(hub: Hub, tiny_encoder: RobustEncoder, token: str | None) -> None:
    with pytest.raises(PushError, match=r"may not write to org/circle; pass token="):
        tiny_encoder.push_to_hub(REPO, token=token)
    assert hub.repos == {}


def test_private_weights_never_go_to_a_public_repository(pushed: Repo, make_encoder: Maker, tiny_pipe: Any) -> None:
    head = pushed.branches["main"]
    with pytest.raises(PushError, match="expected a private repository at org/circle, found a public one"):
        make_encoder(tiny_pipe, seed=2).push_to_hub(REPO, token=WRITER, private=True)
    assert pushed.branches["main"] == head


def test_a_private_repository_needs_a_token(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.push_to_hub(REPO, token=WRITER, private=True)
    assert hub.repos[REPO].private
    with pytest.raises(DownloadError, match=r"expected a repository at org/circle, found none.*pass token="):
        RobustEncoder.from_pretrained(REPO)
    assert RobustEncoder.from_pretrained(REPO, token=READER).content_sha256 == tiny_encoder.content_sha256


@pytest.mark.parametrize("again", [False, True])
def test_a_branch_that_moves_meanwhile_is_read_at_one_commit(
    hub: Hub, pushed: Repo, make_encoder: Maker, tiny_pipe: Any, tiny_encoder: RobustEncoder, again: bool
) -> None:
    other, commit = make_encoder(tiny_pipe, seed=2), pushed.branches["main"]
    if again:
        RobustEncoder.from_pretrained(REPO)

    def move(method: str, path: str) -> None:
        if method == "HEAD" and path.endswith("/config.json"):
            hub.before = lambda method, path: None
            other.push_to_hub(REPO, token=WRITER)

    hub.before = move
    hub.requests.clear()
    assert RobustEncoder.from_pretrained(REPO, force_download=again).content_sha256 == tiny_encoder.content_sha256
    asked = {path.rpartition("/")[2]: path.split("/")[4] for _, path in hub.requests if path.startswith(f"/{REPO}/r")}
    assert asked == {MANIFEST_NAME: "main", "config.json": commit, "model.safetensors": commit, "README.md": commit}
    assert pushed.branches["main"] != commit, "it moved"
    for revision in (None, commit):
        offline = RobustEncoder.from_pretrained(REPO, revision=revision, local_files_only=True)
        assert offline.content_sha256 == tiny_encoder.content_sha256
    assert RobustEncoder.from_pretrained(REPO).content_sha256 == other.content_sha256
    offline = RobustEncoder.from_pretrained(REPO, revision=commit, local_files_only=True)
    assert offline.content_sha256 == tiny_encoder.content_sha256


def test_fetching_again_fails_in_words(hub: Hub, pushed: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match="expected a repository at org/other, found none"):
        RobustEncoder.from_pretrained("org/other", force_download=True)
    with pytest.raises(DownloadError, match="force_download and local_files_only are both set, leave one"):
        RobustEncoder.from_pretrained(REPO, force_download=True, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reset_sessions()
    with pytest.raises(DownloadError, match="while offline; unset HF_HUB_OFFLINE, or leave out force_download"):
        RobustEncoder.from_pretrained(REPO, force_download=True)


def test_a_commit_in_between_is_not_overwritten(hub: Hub, pushed: Repo, make_encoder: Maker, tiny_pipe: Any) -> None:
    def meanwhile(method: str, path: str) -> None:
        if "/preupload/" in path:
            hub.before = lambda method, path: None
            add(pushed, notes__txt=b"of somebody else")

    hub.before = meanwhile
    other = make_encoder(tiny_pipe, seed=2)
    with pytest.raises(PushError, match="another commit changed org/circle during the push; nothing was pushed"):
        other.push_to_hub(REPO, token=WRITER)
    other.push_to_hub(REPO, token=WRITER)
    assert pushed.at("main").files["notes.txt"] == b"of somebody else"
    assert RobustEncoder.from_pretrained(REPO).content_sha256 == other.content_sha256


@pytest.mark.parametrize("name", ["a/b/c", "no spaces/x", "org/--x"])
def test_a_name_that_is_none_is_refused_before_anything_is_sent(
    hub: Hub, tiny_encoder: RobustEncoder, name: str
) -> None:
    with pytest.raises(PushError, match="expected a repository as org/name, found"):
        tiny_encoder.push_to_hub(name, token=WRITER)
    assert hub.requests == []


def test_a_hub_that_cannot_be_reached_is_named(
    hub: Hub, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushError, match="the connection to org/circle failed or broke off; nothing was committed"):
        tiny_encoder.push_to_hub(REPO, token=WRITER)


def test_offline_uses_the_cache_and_refuses_the_rest(
    hub: Hub, pushed: Repo, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="not in the cache and cannot be fetched"):
        RobustEncoder.from_pretrained(REPO, local_files_only=True)
    RobustEncoder.from_pretrained(REPO)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reset_sessions()
    cached = [RobustEncoder.from_pretrained(REPO), RobustEncoder.from_pretrained(REPO, local_files_only=True)]
    assert {encoder.content_sha256 for encoder in cached} == {tiny_encoder.content_sha256}
    with pytest.raises(DownloadError, match="not in the cache and cannot be fetched"):
        RobustEncoder.from_pretrained(REPO, revision="other")
    with pytest.raises(PushError, match="cannot push to org/circle while offline"):
        tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert hub.requests == []


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_swapped_on_the_server_is_refused(
    hub: Hub, pushed: Repo, tiny_encoder: RobustEncoder, same_size: bool
) -> None:
    record = RobustEncoder.from_pretrained(REPO).manifest.files["model.safetensors"]
    data = hub.objects[record.sha256]
    hub.swapped[record.sha256] = data[:-1] + bytes([data[-1] ^ 1]) if same_size else data + b"\0"
    error = IntegrityError if same_size else DownloadError
    with pytest.raises(error, match=r"model\.safetensors"):
        RobustEncoder.from_pretrained(REPO, force_download=True)
    hub.swapped.clear()
    restored = RobustEncoder.from_pretrained(REPO, force_download=True)
    assert restored.content_sha256 == tiny_encoder.content_sha256


@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_that_is_cut_is_named_and_the_next_run_works(
    hub: Hub, pushed: Repo, tiny_encoder: RobustEncoder, reset: bool
) -> None:
    hub.cut_at, hub.reset = 1000, reset
    with pytest.raises(DownloadError, match=r"the download of model\.safetensors of org/circle broke off"):
        RobustEncoder.from_pretrained(REPO)
    with pytest.raises(DownloadError, match="not in the cache"):
        RobustEncoder.from_pretrained(REPO, local_files_only=True)
    hub.cut_at = None
    assert RobustEncoder.from_pretrained(REPO).content_sha256 == tiny_encoder.content_sha256


def test_a_gated_repository_says_how_to_enter(hub: Hub, pushed: Repo, tiny_encoder: RobustEncoder) -> None:
    pushed.gated = True
    with pytest.raises(DownloadError, match="org/circle is gated: accept its terms on the Hub and pass token="):
        RobustEncoder.from_pretrained(REPO, token=READER)
    assert RobustEncoder.from_pretrained(REPO, token=WRITER).content_sha256 == tiny_encoder.content_sha256


def test_what_is_not_there_is_named(hub: Hub, pushed: Repo) -> None:
    with pytest.raises(DownloadError, match="expected a repository at org/other, found none"):
        RobustEncoder.from_pretrained("org/other")
    with pytest.raises(DownloadError, match="expected revision 'v9' of org/circle, found none"):
        RobustEncoder.from_pretrained(REPO, revision="v9")
    with pytest.raises(ManifestError, match="no robust_encoders artifact"):
        RobustEncoder.from_pretrained(REPO, subfolder="sub")


def test_the_command_line_pushes(
    hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert main(["push", str(tmp_path / "artifact"), REPO, "--private", "--revision", "next", "--message", "m"]) == 0
    url = capsys.readouterr().out.strip()
    assert url == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].branches['next']}"
    assert hub.repos[REPO].private
    assert hub.repos[REPO].at("next").message == "m"
    assert main(["push", str(tmp_path / "artifact"), REPO, "--revision", "next", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": str(tmp_path / "artifact"), "repo": REPO, "url": url}


def test_the_command_line_says_why_not(
    hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert main(["push", str(tmp_path / "artifact"), REPO]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "may not write to org/circle" in err


def test_a_process_of_its_own(hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": WRITER,
    }
    code = (
        "import sys\nfrom robust_encoders import RobustEncoder\nfrom huggingface_hub import constants\n"
        f"RobustEncoder.from_pretrained({str(tmp_path / 'artifact')!r}).push_to_hub({REPO!r})\n"
        f"print(RobustEncoder.from_pretrained({REPO!r}).content_sha256)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == tiny_encoder.content_sha256, done.stderr
    assert set(hub.repos[REPO].at("main").files) == FILES
    hub.requests.clear()
    code = f"from robust_encoders import RobustEncoder as R\nprint(R.from_pretrained({REPO!r}).content_sha256)"
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == tiny_encoder.content_sha256, done.stderr
    assert hub.requests == []


def test_pushed_tensors_come_back_bit_for_bit(pushed: Repo, tiny_encoder: RobustEncoder) -> None:
    pulled = RobustEncoder.from_pretrained(REPO)
    assert all(torch.equal(pulled.tensors[name], tensor) for name, tensor in tiny_encoder.tensors.items())
