"""The whole words of a tokenizer's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .word_forms import plurals

# CLIP marks a token that ends a word.
_WORD = re.compile(r"([a-z]{3,})</w>")


def whole_words(tokenizer: Any) -> tuple[str, ...]:
    """Return the tokens of at least three letters that end a word and that text gives back, in the vocabulary's order.

    Endings of longer words are among them, since the vocabulary does not tell them from words.
    """
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    found = [(match[1], i) for token, i in by_id if (match := _WORD.fullmatch(token))]
    if not found:
        return ()
    again = tokenizer([word for word, _ in found], add_special_tokens=False).input_ids
    return tuple(word for (word, i), ids in zip(found, again, strict=True) if ids == [i])


def tokens_like(tokenizer: Any, words: Iterable[str]) -> list[int]:
    """Return the ids of the tokens that spell one of the words by themselves, at a word's end or before more of it.

    Plurals count as well. A word of several tokens has no such token.
    """
    lower = {word.lower() for word in words}
    forms = {word + ending for word in lower for ending in ("", "s", "es")} | {f for one in lower for f in plurals(one)}
    # A letter beyond ASCII stands for a byte in the vocabulary, so only the tokenizer knows words with such letters.
    known = {form for form in forms if form.isascii()}
    spelled = {i for token, i in tokenizer.get_vocab().items() if token.removesuffix("</w>") in known}
    rows = tokenizer(sorted(forms), add_special_tokens=False).input_ids if forms else []
    return sorted(spelled | {row[0] for row in rows if len(row) == 1})
