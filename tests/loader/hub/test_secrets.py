"""Whatever goes wrong in a download or a push, no token and no signed address leaves with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_client import connect, push_folder
from hub_server import READER, WRITER, Hub, serve
from huggingface_hub import HfApi, constants, errors

from robust_encoders import DownloadError, Overlay, PushError, RobustEncoder, RobustEncodersError, UnknownNameError
from robust_encoders.errors import BaseLoadError
from robust_encoders.hub.client import transport_error
from robust_encoders.hub.download import HubOptions, fetch_file
from robust_encoders.hub.pipelines import load_pipeline
from robust_encoders.hub.upload import PushOptions

REPO = "org/circle"
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
OPAQUE = "an-opaque-token-0"  # of a mirror: no prefix tells that it is a token
SIGNATURE = "?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=deadbeefcafe&Expires=99&Signature=s1gn4ture&Policy=p0l1cy"
SECRETS = (TOKEN, OPAQUE, "AKIAEXAMPLE", "deadbeefcafe", "s1gn4ture", "p0l1cy", "c4relessly")
TOLD = (
    f"403 for url: https://cdn.example/a{SIGNATURE} (Bearer {OPAQUE}) b'Bearer {TOKEN}' "
    f"https://user:{TOKEN}@hub.example https://user:c4relessly@hub.example/x /path{SIGNATURE}"
)


def kinds() -> list[type[Exception]]:
    """Return every exception of the Hub's client, that of the HTTP library, and those of Python that it raises."""
    named = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    python = [ValueError, RuntimeError, OSError, TypeError, KeyError, TimeoutError, ConnectionResetError, Exception]
    return [*dict.fromkeys([*named, transport_error(), *python, UnicodeError])]


def made(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = (TOLD,)
    error.__cause__ = OSError(TOLD)
    return error


def leaks(error: BaseException, records: list[logging.LogRecord]) -> list[str]:
    """Return the secrets in everything that a user, a log or a crash report could show of an error."""
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), *traceback.format_exception(error)]
    seen: set[int] = set()
    chain: list[BaseException | None] = [error.__cause__, error.__context__]
    while chain:
        other = chain.pop()
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            shown += [str(other), repr(other)]
            chain += [other.__cause__, other.__context__]
    shown += [f"{record.getMessage()} {record.args}" for record in records if record.name.startswith("robust")]
    return [secret for secret in SECRETS if any(secret in text for text in shown)]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_no_exception_of_a_download_leaks(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise made(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with caplog.at_level(logging.DEBUG), pytest.raises(RobustEncodersError) as caught:
        fetch_file("o/r", "config.json", subfolder="", options=HubOptions(token=OPAQUE))
    assert isinstance(caught.value, DownloadError)
    assert leaks(caught.value, caplog.records) == []


CALLS = ("create_repo", "create_branch", "model_info", "hf_hub_download", "list_repo_files", "create_commit")
# A card that does not exist yet is no failure. Clients of version 0.x have the general type alone.
NO_SUCH_FILE: type[Exception] = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)
FAILURES = [
    (call, kind)
    for call in CALLS
    for kind in kinds()
    if call != "hf_hub_download"
    or not issubclass(kind, errors.EntryNotFoundError)
    or issubclass(kind, errors.LocalEntryNotFoundError)
]


@pytest.mark.parametrize(("call", "kind"), FAILURES)
def test_no_exception_of_a_push_leaks(
    call: str, kind: type[Exception], make_overlay: Overlay, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def answer(name: str) -> Callable[..., Any]:
        def called(*_: Any, **__: Any) -> Any:
            if name == call:
                raise made(kind)
            if name == "hf_hub_download":
                raise made(NO_SUCH_FILE)
            return type("Info", (), {"sha": "f" * 40, "private": False})() if name == "model_info" else []

        return called

    for name in CALLS:
        monkeypatch.setattr(HfApi, name, answer(name))
    with caplog.at_level(logging.DEBUG), pytest.raises(PushError) as caught:
        make_overlay.push_to_hub(REPO, token=OPAQUE, revision="next")
    assert leaks(caught.value, caplog.records) == []
    assert kind.__name__ in str(caught.value)


@pytest.fixture(scope="module")
def make_overlay() -> Overlay:
    """A projection with all facts."""
    return Overlay.from_pretrained("shapes/circle-rece")  # type: ignore[return-value]


@pytest.mark.parametrize("step", ["index", "list", "download"])
def test_no_exception_of_a_base_leaks(monkeypatch: pytest.MonkeyPatch, hub: Hub, tmp_path: Path, step: str) -> None:
    import diffusers

    def fail(*_: Any, **__: Any) -> str:
        raise made(OSError)

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    push_folder(hub, "org/base", tmp_path / "base")
    monkeypatch.setenv("HF_TOKEN", OPAQUE)
    hub.tokens.append(OPAQUE)
    owner, name = {
        "index": (huggingface_hub, "hf_hub_download"),
        "list": (HfApi, "model_info"),
        "download": (diffusers.DiffusionPipeline, "download"),
    }[step]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(BaseLoadError, match="cannot fetch it") as caught:
        load_pipeline("org/base")
    assert leaks(caught.value, []) == []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on loopback whose large files lie behind signed addresses."""
    with serve() as hub:
        hub.signature = SIGNATURE
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.mark.parametrize("status", [400, 401, 403, 404, 416, 429, 500, 503])
@pytest.mark.parametrize("where", ["(GET|HEAD) /cdn/", "HEAD .*/model.safetensors", "HEAD .*/robust_encoder.json"])
def test_an_answer_that_refuses_a_download_leaks_nothing(
    hub: Hub, tiny_encoder: RobustEncoder, status: int, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    hub.faults[where] = status
    with caplog.at_level(logging.INFO), pytest.raises(RobustEncodersError) as caught:
        RobustEncoder.from_pretrained(REPO, token=READER)
    assert leaks(caught.value, caplog.records) == []
    assert READER not in f"{caught.value!r}"


STEPS = ("repos/create", "GET /api/models/", "/preupload/", "/objects/batch", "PUT /lfs/", "/lfs/verify", "/commit/")
STATUSES = (400, 401, 403, 404, 409, 412, 413, 429, 500, 503)
# 409 for a new repository says that it exists already, which is no failure.
ANSWERS = [(where, status) for where in STEPS for status in STATUSES if (where, status) != ("repos/create", 409)]


@pytest.mark.parametrize(("where", "status"), ANSWERS)
def test_an_answer_that_refuses_a_push_leaks_nothing(
    hub: Hub, tiny_encoder: RobustEncoder, status: int, where: str
) -> None:
    hub.faults[where] = status
    with pytest.raises(PushError) as caught:
        tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert leaks(caught.value, []) == []
    assert WRITER not in f"{caught.value!r}"


FAULTS = {
    "": "an empty one",
    "  ": "an empty one",
    f"{TOKEN}\n": "a line break",
    f"{TOKEN[:12]} {TOKEN[12:]}": "a space",
    f"{TOKEN}\r\nX-Evil: 1": "a line break and a space",
    f"'{TOKEN}'": "a quotation mark",
    f"{TOKEN}é": "a character that is not ASCII",
    f"“{TOKEN}”": "a character that is not ASCII",
    "$HF_TOKEN": "other characters",
}


@pytest.mark.parametrize(("token", "fault"), FAULTS.items(), ids=map(repr, range(len(FAULTS))))
def test_a_malformed_token_is_named_and_not_sent(hub: Hub, tiny_encoder: RobustEncoder, token: str, fault: str) -> None:
    with pytest.raises(PushError, match=f"the token passed as token=, found {fault}; nothing was sent") as pushed:
        tiny_encoder.push_to_hub(REPO, token=token)
    with pytest.raises(DownloadError, match=f"the token passed as token=, found {fault}; nothing was sent") as fetched:
        RobustEncoder.from_pretrained(REPO, token=token)
    assert hub.requests == []
    for error in (pushed.value, fetched.value):
        assert "connection" not in str(error)
        assert leaks(error, []) == []
        assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("token", [b"hf_bytes", 3, Path("token")])
def test_a_token_of_another_type_is_named(hub: Hub, token: Any) -> None:
    with pytest.raises(DownloadError, match=r"found a value of type (bytes|int|PosixPath)"):
        RobustEncoder.from_pretrained(REPO, token=token)
    assert hub.requests == []


def test_a_stored_token_is_checked_too(
    hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("environment", "file"):
        if place == "environment":
            monkeypatch.setenv("HF_TOKEN", f"{TOKEN[:9]} {TOKEN[9:]}")
        else:
            monkeypatch.delenv("HF_TOKEN")
            (tmp_path / "token").write_text(f"“{TOKEN}”\n", encoding="utf-8")
        with pytest.raises(PushError, match=r"the stored token \(HF_TOKEN, .*found (a space|a character)") as caught:
            tiny_encoder.push_to_hub(REPO)
        assert leaks(caught.value, []) == []
    assert hub.requests == []


def test_a_token_with_a_line_break_in_the_environment_works(
    hub: Hub, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{WRITER}\n")  # the client itself takes the line break away
    tiny_encoder.push_to_hub(REPO)
    assert REPO in hub.repos


def test_a_token_that_the_hub_does_not_know_is_named(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    with pytest.raises(PushError, match="the Hub does not accept this token, which is wrong, expired or revoked"):
        tiny_encoder.push_to_hub(REPO, token=TOKEN)
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    with pytest.raises(DownloadError, match="found one that is wrong, expired or revoked") as caught:
        RobustEncoder.from_pretrained(REPO, token=TOKEN)
    assert leaks(caught.value, []) == []
    with pytest.raises(DownloadError, match="found one that is wrong, expired or revoked"):
        RobustEncoder.from_pretrained(REPO, token=TOKEN, force_download=True)


def test_a_missing_token_is_named(hub: Hub, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PushError, match="pushing to org/circle needs a token"):
        tiny_encoder.push_to_hub(REPO, token=True)
    with pytest.raises(DownloadError, match="expected a token for org/circle, because token=True was passed"):
        RobustEncoder.from_pretrained(REPO, token=True)
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(PushError, match="no token was found, and HF_TOKEN is set but empty"):
        tiny_encoder.push_to_hub(REPO)


def test_a_hub_that_is_down_is_not_called_offline(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.push_to_hub(REPO, token=WRITER)
    hub.faults["HEAD .*/robust_encoder.json"] = 503
    with pytest.raises(DownloadError, match=r"the Hub refused robust_encoder\.json of org/circle; try again later"):
        RobustEncoder.from_pretrained(REPO)


@pytest.mark.parametrize("name", [f"https://user:{TOKEN}@huggingface.co/org/name", f"org/name?token={TOKEN}", TOKEN])
def test_a_name_with_a_token_in_it_is_not_repeated(
    hub: Hub, tiny_encoder: RobustEncoder, name: str, tmp_path: Path
) -> None:
    errors: list[BaseException] = []
    for call in (
        lambda: tiny_encoder.push_to_hub(name, token=WRITER),
        lambda: RobustEncoder.from_pretrained(name),
        lambda: load_pipeline(name),
        lambda: RobustEncoder.from_pretrained(tmp_path, subfolder=name),
    ):
        with pytest.raises((PushError, UnknownNameError, RobustEncodersError)) as caught:
            call()
        errors.append(caught.value)
    assert [leaks(error, []) for error in errors] == [[]] * 4


def test_an_endpoint_with_a_password_is_not_repeated(
    hub: Hub, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:9")
    with caplog.at_level(logging.INFO), pytest.raises(PushError) as caught:
        tiny_encoder.push_to_hub(REPO, token=WRITER)
    assert leaks(caught.value, caplog.records) == []


def test_options_do_not_show_their_token() -> None:
    assert TOKEN not in f"{HubOptions(token=TOKEN)} {PushOptions(token=TOKEN)}"


def test_our_error_is_no_context_of_the_clients(hub: Hub, tiny_encoder: RobustEncoder) -> None:
    try:
        raise KeyError("of the caller")
    except KeyError:
        with pytest.raises(DownloadError) as caught:
            RobustEncoder.from_pretrained("org/none")
    assert isinstance(caught.value.__context__, KeyError), "what the caller was handling stays"
    assert caught.value.__context__.__context__ is None


SHELL = """
import logging, sys, warnings
from robust_encoders.cli import main as cli
def fail(options):
    logging.getLogger("httpx").info("HTTP Request: GET %s", {told!r})
    warnings.warn({told!r}, stacklevel=1)
    try:
        raise ValueError({told!r})
    except ValueError as error:
        raise RuntimeError({told!r}) from error
cli._list = fail
sys.argv = ["robust-encoders", "list"]
raise SystemExit(cli.main())
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_command_line_shows_no_secret_even_of_an_unexpected_error(tmp_path: Path, debug: str) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login user password c4relessly\n")
    environment = {**os.environ, "HF_TOKEN": OPAQUE, "NETRC": str(netrc), "ROBUST_ENCODERS_DEBUG": debug}
    command = [sys.executable, "-c", SHELL.format(told=TOLD)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(text in done.stderr for text in ("Traceback", "RuntimeError: 403", "UserWarning"))
    assert ("HTTP Request: GET" in done.stderr) == bool(debug), "requests are the business of who is debugging"
    source = [line for line in done.stderr.splitlines() if "told" not in line]
    assert [secret for secret in SECRETS if secret in "\n".join(source)] == []


@pytest.mark.parametrize("debug", [None, "ROBUST_ENCODERS_DEBUG", "HF_DEBUG"])
def test_a_command_that_succeeds_logs_no_signed_address(
    hub: Hub, tiny_encoder: RobustEncoder, tmp_path: Path, debug: str | None
) -> None:
    tiny_encoder.push_to_hub(REPO, token=WRITER, private=True)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password c4relessly\n")
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": READER, **({} if debug is None else {debug: "1"}),
    }  # fmt: skip
    # requests sends netrc's password in place of the token, and logs no address.
    of_requests = transport_error().__module__.startswith("requests")
    if not of_requests:
        environment["NETRC"] = str(tmp_path / ".netrc")
    shell = "from robust_encoders.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", shell, "verify", REPO]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = hub.url in done.stderr
    assert not shown if debug is None else shown or of_requests, "the client logs each address, for who is debugging"
    assert [secret for secret in (*SECRETS, READER) if secret in done.stdout + done.stderr] == []


def test_warnings_hold_no_secret() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RobustEncodersError):
            RobustEncoder.from_pretrained(f"https://user:{TOKEN}@host/org/name")
    assert not any(TOKEN in str(warning.message) for warning in caught)
