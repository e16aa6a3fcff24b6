"""Training of some rows of a table of token embeddings."""

from __future__ import annotations

import pytest
import torch
from tiny_emoji import NETWORKS, VOCABULARY, VOCABULARY_SIZE

from robust_encoders.training.worlds.emoji.clip_tokenizer import clip_tokenizer
from robust_encoders.training.worlds.pretrain import stages as parts
from robust_encoders.training.worlds.pretrain.token_rows import RowSubset, used_tokens

TOKENIZER = clip_tokenizer(VOCABULARY, positions=8, size=VOCABULARY_SIZE)


def test_start_end_and_padding_are_used_by_every_text() -> None:
    ids = used_tokens(TOKENIZER, ["hot dog", "a"] * 600)
    assert ids.tolist() == [320, 513, 515, 516, 517]


def test_an_encoder_with_rows_gives_what_the_whole_table_gives() -> None:
    encoder = parts.new_text_encoder(TOKENIZER, NETWORKS).eval()
    ids = parts.token_ids(TOKENIZER, ["hot dog", "a dog"])
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        table.copy_(table.bfloat16())
        whole = encoder(ids)
        rows = RowSubset.of(encoder, TOKENIZER, ["a hot dog"])
        some = encoder(ids)
    assert torch.equal(whole.last_hidden_state, some.last_hidden_state)
    assert torch.equal(whole.pooler_output, some.pooler_output)
    assert sum(parameter.numel() for name, parameter in encoder.named_parameters() if "token" in name) == 5 * 16
    rows.put_back(encoder)
    assert encoder.get_input_embeddings().weight.shape == (VOCABULARY_SIZE, 16)


def test_rows_are_written_back_and_the_others_stay() -> None:
    encoder = parts.new_text_encoder(TOKENIZER, NETWORKS)
    before = encoder.get_input_embeddings().weight.detach().bfloat16().float()
    rows = RowSubset.of(encoder, TOKENIZER, ["dog"])
    torch.nn.init.ones_(rows.rows)
    rows.put_back(encoder)
    after = encoder.get_input_embeddings().weight
    changed = (after != before).any(1).nonzero().flatten().tolist()
    assert changed == [515, 516, 517]
    assert float(after[515].detach().mean()) == 1


def test_a_token_of_no_text_is_an_error_not_another_token() -> None:
    encoder = parts.new_text_encoder(TOKENIZER, NETWORKS)
    RowSubset.of(encoder, TOKENIZER, ["dog"])
    with pytest.raises(IndexError, match=r"found the ids \[320\]"):
        encoder(parts.token_ids(TOKENIZER, ["a dog"]))
