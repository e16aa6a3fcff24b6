"""Errors of pulling, pushing and cloning, and what each names as the way on: it is followed against a local Hub."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from hub_client import connect, reset_sessions
from hub_server import READER, WRITER, Hub, serve
from huggingface_hub import constants
from overlays import make_delta
from safetensors.torch import save_file

from robust_encoders import DownloadError, IncompatibleError, PushError, RobustEncoder, StaleAttachmentError
from robust_encoders.artifact.manifest import FileRecord, Manifest
from robust_encoders.cli.main import main
from robust_encoders.conversion.files import file_record

REPO, WRONG = "org/circle", "hf_" + "x" * 34


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def pushed(hub: Hub, tiny_encoder: RobustEncoder) -> RobustEncoder:
    """An encoder that lies in a repository."""
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    return tiny_encoder


def log_in(token: str) -> None:
    """Do what `hf auth login` does: store a token where the client reads it."""
    Path(constants.HF_TOKEN_PATH).write_text(token, encoding="utf-8")


def giving(told: str, token: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Give a token by each way that an error names, one after the other; yield the keyword that each leaves."""
    if "token=..." in told:
        yield {"token": token}
    if "HF_TOKEN" in told:
        with monkeypatch.context() as patch:
            patch.setenv("HF_TOKEN", token)
            yield {}
    if "hf auth login" in told:
        log_in(token)
        yield {}


@pytest.mark.parametrize(
    ("token", "fragment", "n"),
    [(True, "because token=True was passed", 3), (WRONG, "expected a token that the Hub accepts for", 2)],
)
def test_pulling_without_a_good_token(
    token: Any, fragment: str, n: int, hub: Hub, pushed: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match=fragment) as refusal:
        RobustEncoder.from_pretrained(REPO, token=token)
    hub.repos[REPO].private = True
    for left in giving(str(refusal.value), READER, monkeypatch):
        assert RobustEncoder.from_pretrained(REPO, **left).content_sha256 == pushed.content_sha256
        n -= 1
    assert n == 0


@pytest.mark.parametrize(
    ("token", "fragment", "n"),
    [
        (True, "needs a token; run `hf auth login`", 2),
        (None, "a push without a token may not write", 3),
        (WRONG, "the Hub does not accept this token", 1),
        (READER, "this token may not write to", 1),
    ],
)
def test_pushing_without_a_good_token(
    token: Any, fragment: str, n: int, hub: Hub, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PushError, match=fragment) as refusal:
        tiny_encoder.push_to_hub(REPO, token=token)
    for left in giving(str(refusal.value), WRITER, monkeypatch):
        tiny_encoder.push_to_hub(REPO, **left)
        assert hub.repos.pop(REPO)
        n -= 1
    assert n == 0


def test_a_stored_token_that_is_none(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    log_in(f"“{WRITER}”")
    with pytest.raises(PushError, match=r"the stored token \(HF_TOKEN, .* or log in by `hf auth login`"):
        tiny_encoder.push_to_hub(REPO)
    log_in(WRITER)
    tiny_encoder.push_to_hub(REPO)
    assert REPO in hub.repos


def test_what_the_hub_forbids(hub: Hub, pushed: RobustEncoder) -> None:
    hub.faults["HEAD .*/robust_encoder.json"] = 403
    with pytest.raises(DownloadError, match=r"the Hub forbids .* try again, or pass token=\.\.\."):
        RobustEncoder.from_pretrained(REPO)
    hub.faults.clear()
    assert RobustEncoder.from_pretrained(REPO, token=READER).content_sha256 == pushed.content_sha256


@pytest.mark.parametrize("way", ["unset HF_HUB_OFFLINE", "leave out force_download"])
def test_offline(way: str, hub: Hub, pushed: RobustEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    RobustEncoder.from_pretrained(REPO)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        reset_sessions()
        with pytest.raises(DownloadError, match=way):
            RobustEncoder.from_pretrained(REPO, force_download=True)
        with pytest.raises(PushError, match="while offline; unset HF_HUB_OFFLINE"):
            pushed.push_to_hub(REPO, token=WRITER)
        if way == "leave out force_download":
            RobustEncoder.from_pretrained(REPO)
    reset_sessions()
    RobustEncoder.from_pretrained(REPO, force_download=True)
    pushed.push_to_hub(REPO, token=WRITER)


def test_a_repository_of_another_visibility(hub: Hub, pushed: RobustEncoder) -> None:
    with pytest.raises(PushError, match="or push without private=True"):
        pushed.push_to_hub(REPO, token=WRITER, private=True)
    pushed.push_to_hub(REPO, token=WRITER)
    assert not hub.repos[REPO].private


def test_a_working_folder_that_is_a_file(
    hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "file"))
    with pytest.raises(PushError, match="set ROBUST_ENCODERS_HOME to a writable folder"):
        tiny_encoder.push_to_hub(REPO, token=WRITER)
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(tmp_path / "folder"))
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert REPO in hub.repos


def git(*arguments: str, place: Path) -> None:
    subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True)


def test_a_clone_with_other_line_ends(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    git("init", "-q", place=tmp_path / "artifact")
    git("add", ".", place=tmp_path / "artifact")
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    git(*author, "commit", "-q", "-m", "an artifact", place=tmp_path / "artifact")
    clone = tmp_path / "clone"
    git("clone", "-q", "-c", "core.autocrlf=true", "artifact", "clone", place=tmp_path)
    told = refused(capsys, 1, "verify", str(clone))
    command = re.search(r"`(git config core\.autocrlf false)` and check the file out again", told)
    assert command is not None
    git(*shlex.split(command[1])[1:], place=clone)
    for path in (path for path in clone.iterdir() if path.is_file()):
        path.unlink()
    git("checkout", "--", ".", place=clone)
    assert main(["verify", str(clone)]) == 0


def test_weights_of_an_earlier_version(
    tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "artifact"
    tiny_encoder.save_pretrained(folder)
    save_file(dict(tiny_encoder.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    manifest, record = Manifest.read(folder), file_record(folder / "model.safetensors")
    sealed = FileRecord(sha256=record.sha256, size=record.size, content_sha256=tiny_encoder.content_sha256)
    replace(manifest, files={**manifest.files, "model.safetensors": sealed}).write(folder)
    main(["ready", str(folder)])
    assert "for example by `robust-encoders annotate`" in capsys.readouterr().out
    assert main(["annotate", str(folder), "--license", "mit"]) == 0
    main(["ready", str(folder)])
    assert re.search(r"^ok +provenance in the weights", capsys.readouterr().out, re.MULTILINE)


def map_devices(pipe: Any) -> None:
    pipe.hf_device_map = {"text_encoder": "cpu", "unet": "cpu", "vae": "cpu"}


def test_a_device_map(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    map_devices(tiny_pipe)
    with pytest.raises(IncompatibleError, match=r"undo a device map by pipe\.reset_device_map\(\)"):
        tiny_encoder.attach(tiny_pipe)
    tiny_pipe.reset_device_map()
    tiny_encoder.attach(tiny_pipe)
    map_devices(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match=r"\(pipe\.reset_device_map\(\) for a device map\)"):
        tiny_encoder.detach(tiny_pipe)
    tiny_pipe.reset_device_map()
    tiny_encoder.detach(tiny_pipe)
    delta = make_delta(tiny_pipe)
    delta.attach(tiny_pipe)
    map_devices(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match=r"call pipe\.reset_device_map\(\)"):
        delta.detach(tiny_pipe)
    tiny_pipe.reset_device_map()
    delta.detach(tiny_pipe)


def test_a_pin_of_other_files(
    tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_encoder(tiny_pipe).save_pretrained(tmp_path / "a")
    assert main(["pin", str(tmp_path / "a")]) == 0
    make_encoder(tiny_pipe, seed=7).save_pretrained(tmp_path / "a")
    capsys.readouterr()
    told = refused(capsys, 1, "info", str(tmp_path / "a"))
    assert "if you trust the change, run `robust-encoders pin --replace` on it" in told
    command = re.search(r"`robust-encoders (pin --replace)`", told)
    assert command is not None
    assert main([*command[1].split(), str(tmp_path / "a")]) == 0
    assert main(["info", str(tmp_path / "a")]) == 0
