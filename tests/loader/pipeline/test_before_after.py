"""The picture before and after attaching: what it shows, and that nothing stays attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from robust_encoders import IncompatibleError, RobustEncoder
from robust_encoders.pipeline.before_after import LINE, TILE, before_after

ONE_STEP: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0}


def test_one_column_a_prompt_and_nothing_stays(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    own = tiny_pipe.text_encoder
    picture = before_after(tiny_pipe, tiny_encoder, ["a circle", "a very long caption of a square"], **ONE_STEP)
    assert picture.size == (2 * (TILE + 16), 2 * (TILE + 3 * LINE + 16))
    assert tiny_pipe.text_encoder is own
    pixels = np.asarray(picture)[: 8 + TILE]
    again = np.asarray(
        before_after(tiny_pipe, tiny_encoder, ["a circle", "a very long caption of a square"], **ONE_STEP)
    )
    assert (pixels == again[: 8 + TILE]).all(), "the seeds fix the picture"


@pytest.mark.parametrize("prompts", [[], "a circle"])
def test_prompts_are_a_list(tiny_pipe: Any, tiny_encoder: RobustEncoder, prompts: Any) -> None:
    with pytest.raises(ValueError, match="expected a list of prompts"):
        before_after(tiny_pipe, tiny_encoder, prompts)


def test_a_pipeline_that_does_not_fit_is_refused_before_anything_is_drawn(
    make_pipe: Callable[..., Any], tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, calls = make_pipe(width=32), list[int]()
    monkeypatch.setattr(type(other), "__call__", lambda *_, **__: calls.append(1))
    with pytest.raises(IncompatibleError, match="width"):
        before_after(other, tiny_encoder, ["a"])
    assert calls == []


def test_a_pipeline_with_something_attached_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    with pytest.raises(ValueError, match="found one attached; detach it first"):
        before_after(tiny_pipe, tiny_encoder, ["a"], **ONE_STEP)
