"""Positions of the concept's words among a prompt's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.concept_tokens import concept_tokens

CIRCLE = Concept(name="circle", kind="object", synonyms=("zebra disc",))


def test_every_sub_token_of_every_word_is_found(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    tokenizer = backbone.tokenizer
    prompts = ("a red circle", "Zebra Disc on white, circle", "circle")
    found = concept_tokens(backbone, prompts, CIRCLE)
    ids = backbone.tokenize(prompts)
    words = [["circle"], ["zebra disc", "circle"], ["circle"]]
    for row, chosen, named in zip(ids, found, words, strict=True):
        wanted = [token for word in named for token in tokenizer(word, add_special_tokens=False).input_ids]
        assert row[chosen].tolist() == wanted
    assert int(found[1].sum()) > 3  # more sub-tokens than words, or the test says nothing


def test_a_prompt_without_the_concept_or_with_it_cut_off_is_refused(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    for prompt in ("a red square", "red " * 40 + "circle"):
        with pytest.raises(ValueError, match=r"expected one of .* in every prompt"):
            concept_tokens(backbone, ("a circle", prompt), CIRCLE)
    assert concept_tokens(backbone, ("a circle",), CIRCLE).dtype == torch.bool
