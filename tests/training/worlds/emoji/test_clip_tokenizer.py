"""CLIP's tokenizer from its vocabulary file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_emoji import VOCABULARY, VOCABULARY_SIZE

from robust_encoders.errors import IntegrityError
from robust_encoders.training.worlds.emoji import clip_tokenizer as module
from robust_encoders.training.worlds.emoji.clip_tokenizer import byte_letters, clip_tokenizer, clip_vocabulary


def test_the_bytes_have_clips_order() -> None:
    letters = byte_letters()
    assert len({*letters}) == 256
    assert letters[:2] == ["!", '"']
    # OpenAI's tokenizer gives 320 for the word "a": 256 bytes come before the bytes at the end of a word.
    assert 256 + letters.index("a") == 320
    assert letters[188:190] == ["\u0100", "\u0101"]  # stand for the bytes 0 and 1, which cannot be printed


def test_merges_follow_the_file_and_the_size_cuts_them_off() -> None:
    tokenizer = clip_tokenizer(VOCABULARY, positions=8, size=VOCABULARY_SIZE)
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer("A hot dog").input_ids == [516, 320, 513, 515, 517]
    assert tokenizer.convert_ids_to_tokens([512, 513, 514, 515]) == ["ho", "hot</w>", "do", "dog</w>"]
    assert len(tokenizer.tokenize("zz")) == 2  # the merge beyond the size is not used
    assert tokenizer.model_max_length == 8
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == VOCABULARY_SIZE - 1


def test_a_whole_vocabulary_with_other_ids_is_refused() -> None:
    lines = ["#version", *(f"{a} {b}" for a in byte_letters() for b in byte_letters())][: module.SIZE - 513]
    with pytest.raises(IntegrityError, match="'a photo of a cat', found"):
        clip_tokenizer("\n".join(lines), positions=77)


def test_a_wheel_with_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_member", lambda folder, package, member: b"another")
    with pytest.raises(IntegrityError, match=r"expected clip/bpe_simple_vocab_16e6\.txt\.gz with sha256 924691ac"):
        clip_vocabulary(tmp_path)
