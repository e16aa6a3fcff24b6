"""Texts of token ids, by tokenizers as they are loaded and as programs pass them on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.spelled import spelled

COPIES: dict[str, Callable[[Any], Any]] = {
    "copied": copy.deepcopy,
    "pickled": lambda tokenizer: pickle.loads(pickle.dumps(tokenizer)),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_tokenizer_spells_as_its_original(tiny_pipe: Any, how: str) -> None:
    original, copied = tiny_pipe.tokenizer, COPIES[how](tiny_pipe.tokenizer)
    rows = [[i] for i in range(len(original))] + [original("a red ring, two stars").input_ids]
    assert [spelled(copied, row) for row in rows] == [original.decode(row).strip() for row in rows]


@pytest.mark.parametrize("how", COPIES)
def test_attacks_find_the_same_tokens_on_a_copied_pipeline(tiny_pipe: Any, how: str) -> None:
    target, copied = Backbone.from_pipeline(tiny_pipe), Backbone.from_pipeline(tiny_pipe)
    copied.tokenizer = COPIES[how](tiny_pipe.tokenizer)
    found = allowed_tokens(copied, typable=True)
    assert len(found) > 0
    assert found.tolist() == allowed_tokens(target, typable=True).tolist()


def test_a_tokenizer_whose_texts_give_back_no_token_is_refused(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Backbone.from_pipeline(tiny_pipe)
    monkeypatch.setattr(type(target.tokenizer), "decode", lambda *_, **__: "")
    with pytest.raises(ValueError, match=r"text can produce.*found none among \d+; load the tokenizer"):
        allowed_tokens(target, typable=True)
