"""Texts without secrets: tokens, passwords in addresses, and the signatures of signed addresses are hidden.

Messages, warnings and logs of this package pass through :func:`redacted`, because a text that others wrote, such as an
exception of the Hub's client or a name that a user passed, may hold a secret.
"""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import quote

HIDDEN = "<hidden>"
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# A secret of fewer characters is hidden only as a whole word: hiding every "a" would make a message unreadable.
_SHORT = 8
_SIGNED = (
    r"x-(?:amz|goog|ms)-[\w-]+|awsaccesskeyid|googleaccessid|key-pair-id|signature|policy|credential|sig|access_token"
    r"|api_key|password|secret"
)
_PATTERNS = (
    # The user and the password of an address. A password that was pasted carelessly may hold spaces.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/?#'\"<>]*|[^\s/?#@:'\"<>]*:[^/?#@'\"<>]*)@", re.I), rf"\1{HIDDEN}@"),
    # The whole query of an address or a path: which of its parameters are secret depends on who signed it.
    (re.compile(r"\?[^\s?=&'\"<>]+=[^\s'\"<>)\]}]*"), f"?{HIDDEN}"),
    # A value of an Authorization header: no short word, as in "the bearer of it".
    (re.compile(r"\b([Bb]earer|BEARER|Basic|BASIC)(?:\s+|%20)(?:[\w.~+/=-]{8,}|[a-z]*[A-Z0-9_.~+/=][\w.~+/=-]*)"),
     rf"\1 {HIDDEN}"),
    (re.compile(rf"\b({_SIGNED})(['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;<>]*\w[^\s&'\",;<>]*", re.I), rf"\1\2{HIDDEN}"),
    # Tokens of the Hub; names such as hf_hub_download have neither a capital letter or digit nor one long word.
    (re.compile(r"(?<![A-Za-z0-9])(?:hf_(?=[\w-]*[A-Z0-9])[\w-]{4,}|hf_[A-Za-z]{16,}|api_org_\w{8,})"), HIDDEN),
)  # fmt: skip


def redacted(text: str, *secrets: str) -> str:
    """Return a text without secrets.

    Args:
        text: Text of any origin.
        secrets: Further secrets that the text may hold; those in the environment and all that look like a token or a
            signed address are hidden in any case.
    """
    known = [*secrets, *(os.environ.get(name, "") for name in TOKEN_VARIABLES)]
    for form in sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True):
        bounds = (r"(?<!\w)", r"(?!\w)") if len(form) < _SHORT else ("", "")
        text = re.sub(bounds[0] + re.escape(form) + bounds[1], HIDDEN, text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def _forms(secret: str) -> set[str]:
    """Return the forms in which texts quote a secret: as it is, in one line, escaped, or as a part of an address."""
    stripped = secret.strip()
    escaped = repr(secret)[1:-1], ascii(secret)[1:-1], repr(secret.encode(errors="replace"))[2:-1]
    in_address = quote(secret, safe="", errors="replace"), quote(stripped, safe="", errors="replace")
    parts = [part for part in secret.split() if len(part) >= _SHORT]
    return {secret, stripped, " ".join(secret.split()), *escaped, *in_address, *parts} - {""}


class RedactingFilter(logging.Filter):
    """Filter of a logger that hides the secrets in its records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message of a record by the one without secrets; let every record pass."""
        record.msg, record.args = redacted(record.getMessage()), None
        return True


class RedactingFormatter(logging.Formatter):
    """Formatter of a handler that hides the secrets in what it writes, tracebacks and other libraries' records too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record without secrets."""
        return redacted(super().format(record))


_FILTER = RedactingFilter()


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose records hold no secrets.

    Args:
        name: Name of the module.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)
    return logger
