"""The look at a finished artifact: does it move captions of its concept that no training gave it?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import robust_encoders
from robust_encoders import Concept, RobustEncoder
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.training import Recipe, run_recipe
from robust_encoders.training.methods import RECE, UCE
from robust_encoders.training.recipes.effect import moved_share, warn_if_unmoved
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.retain import retain_prompts

CIRCLE = Concept(name="circle", kind="object")


def test_an_encoder_that_changes_nothing_is_reported(
    tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder], caplog: pytest.LogCaptureFixture
) -> None:
    made = make_encoder(tiny_pipe)
    kept = {name: tensor.clone() for name, tensor in nested_state(tiny_pipe.text_encoder).items()}
    unchanged = RobustEncoder(made.manifest, kept, made.config)
    assert moved_share(unchanged, tiny_pipe, CIRCLE) == 0
    warn_if_unmoved(unchanged, tiny_pipe, CIRCLE)
    assert "captions of 'circle'" in caplog.text
    assert "found 0.00" in caplog.text


def test_the_pipeline_stays_as_it_is(tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_pipe.text_encoder.state_dict().items()}
    assert moved_share(make_encoder(tiny_pipe), tiny_pipe, CIRCLE) > 0
    after = tiny_pipe.text_encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.base
def test_shipped_encoders_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    pipe = robust_encoders.embedded_pipeline()
    for name in ("circle", "red", "striped"):
        encoder = RobustEncoder.from_pretrained(f"shapes/{name}")
        warn_if_unmoved(encoder, pipe, encoder.manifest.concept)
    assert "captions of" not in caplog.text


@pytest.mark.base
def test_a_closed_form_of_a_bare_name_is_reported_when_it_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The words of an attribute stand in captions; the hidden state of its bare name is another one."""
    green = ShapesConcept.parse("green").concept
    with caplog.at_level(logging.WARNING):
        for texts in ("words", "prompts"):
            caplog.clear()
            method = RECE(start=UCE(texts=texts, tokens="from_last")).retaining(retain_prompts("green"))
            recipe = Recipe(name="green", concept=green, method=method, base="shapes", license="apache-2.0")
            run_recipe(recipe, robust_encoders.embedded_pipeline(), tmp_path / texts, progress=False)
            assert ("captions of 'green'" in caplog.text) == (texts == "words")
