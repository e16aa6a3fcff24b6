"""Texts lose their secrets and nothing else."""

from __future__ import annotations

import logging
import pickle

import pytest

from robust_encoders import CompatibilityWarning, PushError
from robust_encoders.redaction import HIDDEN, RedactingFormatter, get_logger, redacted

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
SIGNED = "https://cdn.example/a/b?X-Amz-Algorithm=AWS4&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=deadbeef&Expires=1"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Illegal header value b'Bearer {TOKEN}'", TOKEN),
        (f"authorization: Bearer {TOKEN}", TOKEN),
        ("{'authorization': 'Bearer opaque-token.without_prefix'}", "opaque-token"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpw"),
        (f"clone https://user:{TOKEN}@huggingface.co/org/name", TOKEN),
        ("GET https://me:open%20sesame@mirror.example:8080/x", "sesame"),
        ("GET https://me:open sesame@mirror.example/x", "sesame"),
        ("HTTPS://Some.User:pw@host/", "pw@"),
        ("proxy http://only-a-name@host", "only-a-name"),
        (f"403 Forbidden for url: {SIGNED}", "deadbeef"),
        (f"403 Forbidden for url: {SIGNED}", "AKIA"),
        ("Max retries exceeded with url: /org/name?Signature=abc~def&Key-Pair-Id=K1", "abc~def"),
        ("https://blob.example/x?sv=2020&sig=Zm9v%3D&se=2030", "Zm9v"),
        ("X-Amz-Signature=deadbeef", "deadbeef"),
        ('{"signature": "deadbeef"}', "deadbeef"),
        ("https://host/login?token=open", "open"),
        (f"HF_TOKEN={TOKEN}\n", TOKEN),
        (f"({TOKEN})", TOKEN),
        ("old tokens: api_org_abcdefghijkl", "api_org_abc"),
    ],
)
def test_a_secret_is_hidden(text: str, secret: str) -> None:
    assert secret in text
    found = redacted(text)
    assert secret not in found
    assert HIDDEN in found
    assert redacted(found) == found, "hiding twice changes nothing more"


@pytest.mark.parametrize(
    "text",
    [
        "expected a repository as org/name, found 'a/b/c'",
        "see https://huggingface.co/settings/tokens, or run `hf auth login`; pass token=... with write permission",
        "load plain weights by hf_hub_download or hf_transfer; HF_HUB_OFFLINE is set",
        "is that so? yes = no",
        "sha256 0123456789abcdef, revision ffffffffffffffffffffffffffffffffffffffff",
        "a basic idea, and the bearer of it",
        "this person@example.org wrote it",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("secret", ["pässwörd-123", "two words here", "line\nbreak-of-it", "a/b+c==", "x"])
def test_a_known_secret_is_hidden_in_every_form(secret: str) -> None:
    for text in (secret, repr(secret), ascii(secret), " ".join(secret.split()), f"value {secret!r} of it"):
        found = redacted(f"it was {text}.", secret)
        assert secret not in found
        assert repr(secret)[1:-1] not in found
        assert HIDDEN in found
    assert redacted("extra words stay", "x") == "extra words stay"


def test_the_environment_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "no-prefix-at-all")
    assert redacted("sent no-prefix-at-all") == f"sent {HIDDEN}"


def test_errors_and_warnings_of_this_package_hold_no_secret() -> None:
    for told in (PushError(f"sent {TOKEN}"), CompatibilityWarning(f"sent {TOKEN}")):
        assert TOKEN not in f"{told} {told!r} {told.args}"
        assert str(pickle.loads(pickle.dumps(told))) == str(told)


def test_logs_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        get_logger("robust_encoders.a_test").info("from %s with %s", SIGNED, {"token": TOKEN})
    (record,) = caplog.records
    assert not any(secret in f"{record.getMessage()} {record.__dict__}" for secret in (TOKEN, "deadbeef"))
    assert "from https://cdn.example/a/b?" in record.getMessage()


def test_a_traceback_in_a_log_is_redacted() -> None:
    try:
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}'")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("other", logging.ERROR, __file__, 1, "HTTP Request: GET %s", (SIGNED,), info)
    written = RedactingFormatter("%(message)s").format(record)
    assert "Traceback" in written
    assert "deadbeef" not in written
