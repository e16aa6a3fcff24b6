"""Calls of the Hub's client: the token is checked before anything is sent, and no secret leaves with an exception.

The client's exceptions quote addresses, headers and answers as they are. An error of this package therefore has neither
``__cause__`` nor ``__context__``: it repeats the type and the redacted text of the client's exception.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

from robust_encoders.errors import RobustEncodersError
from robust_encoders.redaction import TOKEN_VARIABLES, redacted

T = TypeVar("T")
_PUBLIC = "https://huggingface.co"
# The characters of a bearer token: RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class Failure:
    """An exception of the Hub's client.

    Args:
        error: The exception; of a chain, the one that tells the cause.
        token: True if the client sent a token.
    """

    error: Exception
    token: bool

    @property
    def status(self) -> int:
        """Status code of the Hub's answer; 0 without an answer."""
        return int(getattr(getattr(self.error, "response", None), "status_code", 0) or 0)

    def chosen(self, texts: dict[type[Exception], str]) -> str:
        """Return the text of the first type that the exception is of.

        Args:
            texts: Mapping of exception types to texts, special types before general ones.
        """
        return next(text for kind, text in texts.items() if isinstance(self.error, kind))


class _MalformedTokenError(Exception):
    """A token cannot be sent; the message does not hold the token."""


def asked(
    call: Callable[[], T],
    words: Callable[[Failure], RobustEncodersError],
    *,
    token: str | bool | None,
    kind: type[RobustEncodersError],
    cause: Callable[[Exception], Exception] = lambda error: error,
    quoted: bool = True,
) -> T:
    """Return the result of a call of the Hub's client.

    Args:
        call: Function that calls the client.
        words: Function that returns the error to raise instead of an exception of the client.
        token: Token that is passed to the client.
        kind: Type of the error for a malformed token.
        cause: Function that returns the exception which tells why the call failed, of the one that the client raised.
        quoted: Switch that adds the client's own text to the error.

    Raises:
        RobustEncodersError: The result of ``words``, with the redacted text of the client's exception; or an error of
            type ``kind`` if the token is malformed. Nothing is sent then.
    """
    sent = ""
    try:
        sent = _sent(token)
        return call()
    except _MalformedTokenError as error:
        failure = kind(str(error))
    except Exception as error:  # noqa: BLE001 - whatever the client raises may quote a secret
        found = cause(error)
        failure = words(Failure(found, token=bool(sent)))
        told = redacted(f"{type(found).__name__}: {' '.join(str(found).split())}", sent)
        failure.args = (redacted(str(failure), sent) + (f" ({told})" if quoted else ""),)
    # Raised outside of the except block, so that the client's exception is not the context of this one.
    raise failure


def _sent(token: str | bool | None) -> str:
    """Return the token that the client sends; empty if it sends none."""
    from huggingface_hub import constants, get_token

    _require_token(token, "the token passed as token=")
    if isinstance(token, str):
        return token
    if token is False or (token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN):
        return ""
    stored = get_token()
    _require_token(stored, "the stored token (HF_TOKEN, or that of `hf auth login`)")
    return stored or ""


def is_malformed(token: str | bool | None) -> bool:
    """Return true if a token, or the stored one that stands for it, cannot be sent.

    Args:
        token: Token that is passed to the client.
    """
    try:
        _sent(token)
    except _MalformedTokenError:
        return True
    return False


def _require_token(token: object, name: str) -> None:
    if token is None or isinstance(token, bool) or (isinstance(token, str) and _TOKEN.fullmatch(token)):
        return
    raise _MalformedTokenError(
        f"expected letters, digits and -._~+/ in {name}, found {_shape(token)}; nothing was sent. Copy the token again "
        "from https://huggingface.co/settings/tokens, or log in by `hf auth login`"
    )


def _shape(token: object) -> str:
    if not isinstance(token, str):
        return f"a value of type {type(token).__name__}"
    if not token.strip():
        return "an empty one"
    faults = {
        "a line break": r"[\r\n]",
        "a space": r"[^\S\r\n]",
        "a quotation mark": r"['\"`]",
        "a character that is not ASCII": r"[^\x00-\x7f]",
    }
    return " and ".join(words for words, pattern in faults.items() if re.search(pattern, token)) or "other characters"


def sending_problems(repo: str, *, token: bool) -> list[str]:
    """Return the reasons why nothing can be sent to a repository; nothing is asked of the Hub.

    Args:
        repo: Repository as ``org/name``.
        token: True to ask for a stored token, too; a server of one's own (``HF_ENDPOINT``) may need none.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but in no __all__

    problems = []
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        problems.append(f"expected a repository as org/name, found {repo!r}: {error}")
    if constants.HF_HUB_OFFLINE:
        problems.append(f"cannot push to {repo} while offline; unset HF_HUB_OFFLINE")
    if token and constants.ENDPOINT == _PUBLIC and not get_token():
        problems.append(
            f"expected a token with write permission for {repo}, found none; set HF_TOKEN, or run `hf auth login`"
        )
    return problems


def blank_variable() -> str:
    """Return the name of the environment variable whose token is blank and so is not used; empty if there is none."""
    blank = (name for name in TOKEN_VARIABLES if name in os.environ and not os.environ[name].strip())
    return next(blank, "")


def transport_error() -> type[Exception]:
    """Return the error type, besides OSError, that the installed Hub client raises if a connection breaks off.

    It is the error of the HTTP library below: requests, httpx or httpx2, depending on the client's version. In each
    version, that error is the base class of ``HfHubHTTPError``.
    """
    from huggingface_hub import errors

    return cast(type[Exception], errors.HfHubHTTPError.__bases__[0])


def cause_of_download(error: Exception) -> Exception:
    """Return the exception that tells why a download failed: the client wraps the Hub's answer in general errors.

    Args:
        error: Exception of the client.
    """
    from huggingface_hub import errors

    wraps = type(error) is ValueError or isinstance(error, errors.LocalEntryNotFoundError)
    if not wraps:
        return error
    chain = list(_chain(error.__cause__))
    answered = (one for one in chain if Failure(one, token=False).status)
    inner = chain[0] if chain and type(error) is ValueError else error
    return next(answered, inner)


def _chain(error: BaseException | None) -> Iterator[Exception]:
    while isinstance(error, Exception):
        yield error
        error = error.__cause__
