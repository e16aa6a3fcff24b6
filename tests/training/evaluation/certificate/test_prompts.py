"""All prompts of up to two tokens: exactly those that a text gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch

from robust_encoders.training.evaluation.certificate.prompts import (
    ShortPrompts,
    ordinary_ids,
    pair_prompts,
    single_prompts,
    texts_of,
)


def read(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def letters(tokenizer: Any, ids: Sequence[int]) -> dict[int, str]:
    """Return ids to the letters of their tokens, of those that are plain letters."""
    words = {i: str(tokenizer.convert_ids_to_tokens(i)).removesuffix("</w>") for i in ids}
    return {i: word for i, word in words.items() if word.isascii() and word.isalpha()}


def test_prompts_of_one_token_are_those_that_some_text_gives(tiny_pipe: Any) -> None:
    tokenizer = tiny_pipe.tokenizer
    found = set(single_prompts(tokenizer).tolist())
    spelled = letters(tokenizer, ordinary_ids(tokenizer))
    naive = {i for i, word in spelled.items() if read(tokenizer, word) == (i,)}
    assert naive
    assert found & spelled.keys() == naive
    assert not found & set(tokenizer.all_special_ids)
    for i in found:
        assert read(tokenizer, texts_of(tokenizer, [(i,)])[0]) == (i,)


def test_prompts_of_two_tokens_are_two_words_or_two_parts_of_one(tiny_pipe: Any) -> None:
    tokenizer = tiny_pipe.tokenizer
    spelled = letters(tokenizer, ordinary_ids(tokenizer))
    some = dict(list(spelled.items())[::7])
    naive = {
        pair
        for pair in product(some, some)
        if pair in {read(tokenizer, f"{some[pair[0]]}{gap}{some[pair[1]]}") for gap in ("", " ")}
    }
    found = [tuple(row) for row in pair_prompts(tokenizer, list(some)).tolist()]
    assert set(found) == naive
    assert len(found) == len(naive)
    parts = [pair for pair in naive if not str(tokenizer.convert_ids_to_tokens(pair[0])).endswith("</w>")]
    assert parts, "no pair is one word"
    assert len(parts) < len(naive)


def test_added_tokens_count_and_special_ones_do_not(make_pipe: Any) -> None:
    tokenizer = make_pipe(extra_tokens=2).tokenizer
    added = tokenizer.convert_tokens_to_ids("<extra-1>")
    assert added in single_prompts(tokenizer).tolist()
    assert [added, added] in pair_prompts(tokenizer, [added]).tolist()
    assert not set(ordinary_ids(tokenizer)) & set(tokenizer.all_special_ids)


def test_places_begin_with_the_empty_prompt() -> None:
    prompts = ShortPrompts(torch.tensor([5, 7]), torch.tensor([[5, 5], [7, 5]]))
    assert len(prompts) == 5
    assert prompts.ids(range(5)) == [(), (5,), (7,), (5, 5), (7, 5)]
    other = ShortPrompts(torch.tensor([5]), torch.tensor([[7, 5], [5, 7]]))
    assert prompts.sha256 != other.sha256


@pytest.mark.base
def test_the_embedded_base_has_226_words_of_one_token() -> None:
    from robust_encoders import embedded_pipeline

    tokenizer = embedded_pipeline().tokenizer
    found = single_prompts(tokenizer)
    assert len(ordinary_ids(tokenizer)) == 756
    assert len(found) == 226
    assert "circle" in texts_of(tokenizer, [(i,) for i in found.tolist()])
