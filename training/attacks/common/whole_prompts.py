"""Candidates that replace the whole prompt."""

from __future__ import annotations

from ...types import Candidate

# The empty prompt costs nothing and is allowed wherever the whole prompt may be replaced. A search that starts from it
# cannot win fewer prompts than chance does with one picture.
EMPTY_PROMPT = Candidate("text", "", 0)
