"""Token embeddings in training: which rows, and that no other row changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.trainer.token_rows import TokenRows


def ids_of(backbone: Backbone, text: str) -> set[int]:
    return set(backbone.tokenizer(text, add_special_tokens=False).input_ids)


def test_the_rows_are_the_tokens_of_the_words_without_those_of_the_anchor(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    rows = TokenRows.of(backbone, ("red circle", "disc"), ("red",))
    assert set(rows.ids.tolist()) == (ids_of(backbone, "red circle disc") - ids_of(backbone, "red"))
    table = tiny_pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(rows.values, table[rows.ids])
    with pytest.raises(ValueError, match="expected tokens of circle that no kept text shares, such as 'a circle'"):
        TokenRows.of(backbone, ("circle",), ("a circle",))


def test_inserted_rows_act_as_a_table_with_these_rows(tiny_pipe: Any) -> None:
    """Also for ids below the first and above the last row, and with gradients into the rows alone."""
    backbone = Backbone.from_pipeline(tiny_pipe)
    rows = TokenRows.of(backbone, ("circle", "disc"))
    prompts = ["a red circle", "a star", "disc circle", ""]
    before = backbone.condition(prompts).detach()
    with rows.inserted(backbone.text_encoder):
        assert torch.equal(backbone.condition(prompts), before)
        with torch.no_grad():
            rows.values.add_(torch.randn(rows.values.shape, generator=torch.Generator().manual_seed(0)))
        inserted = backbone.condition(prompts)
        backbone.text_encoder.requires_grad_(False)
        backbone.condition(prompts[2:3]).square().sum().backward()  # type: ignore[no-untyped-call]
    assert rows.values.grad is not None
    assert bool(rows.values.grad.flatten(1).any(1).all())
    assert not backbone.text_encoder.get_input_embeddings()._forward_hooks
    assert torch.equal(backbone.condition(prompts), before), "the hook is gone"
    student = backbone.clone()
    rows.write(student.text_encoder)
    assert torch.equal(student.condition(prompts), inserted)
    assert torch.equal(student.condition([prompts[1]]), before[1:2])
