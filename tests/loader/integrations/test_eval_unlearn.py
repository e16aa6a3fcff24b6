"""The technique for eval-unlearn: what it draws, which base it takes, and what it refuses, without eval-unlearn."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from robust_encoders import Base, CompatibilityWarning, IncompatibleError, RobustEncoder
from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.integrations import eval_unlearn
from robust_encoders.integrations.eval_unlearn import RobustEncoderTechnique

Settings = dict[str, Any]


@pytest.fixture
def settings(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> Settings:
    """A configuration with an encoder and its base in folders."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    tiny_encoder.save_pretrained(tmp_path / "circle")
    folders = {"encoder": str(tmp_path / "circle"), "model_id": str(tmp_path / "base")}
    return {**folders, "device": "cpu", "num_inference_steps": 2}


def same(found: Any, expected: Any) -> bool:
    return bool((numpy.array(found) == numpy.array(expected)).all())


def drawn(pipe: Any, prompt: str, seed: int, **options: Any) -> Any:
    options = {"num_inference_steps": 2, "guidance_scale": 7.5, **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]


def refusal(settings: Settings, **changes: Any) -> str:
    with pytest.raises(ValueError, match="expected") as told:
        RobustEncoderTechnique(**{**settings, **changes})
    return str(told.value)


def test_it_draws_with_the_encoder_one_seed_after_the_other(
    settings: Settings, tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    technique = RobustEncoderTechnique(**settings, seed=40, erase_concept="Circle")
    with tiny_encoder.attached(tiny_pipe):
        for seed, first in ((None, 40), (0, 0), (7, 7)):
            found = technique.generate(["a cat", "a dog"], seed=seed)
            assert same(found[0], drawn(tiny_pipe, "a cat", first))
            assert same(found[1], drawn(tiny_pipe, "a dog", first + 1))
        (found,) = technique.generate(prompts=["a cat"], num_inference_steps=3, guidance_scale=2.0)
        assert same(found, drawn(tiny_pipe, "a cat", 40, num_inference_steps=3, guidance_scale=2.0))
    assert not same(found, drawn(tiny_pipe, "a cat", 40, num_inference_steps=3, guidance_scale=2.0))
    assert technique.generate([]) == []


def test_the_base_is_the_one_that_the_encoder_names(
    settings: Settings,
    tiny_pipe: Any,
    make_encoder: Callable[..., RobustEncoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load(name: str, options: Any) -> None:
        asked.append((name, options.device, options.dtype, options.without))
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_unlearn, "load_pipeline", load)
    bases = {
        "org/tiny": Base.from_pipeline(tiny_pipe, family="tiny", ids=("org/tiny", "org/copy")),
        "org/tiny@abc": Base.from_pipeline(tiny_pipe, family="tiny", ids=("org/tiny",), revision="abc"),
        **{family: Base.from_pipeline(tiny_pipe, family=family) for family in EMBEDDED},
    }
    for i, base in enumerate(bases.values()):
        make_encoder(tiny_pipe, base=base).save_pretrained(tmp_path / str(i))
        with pytest.raises(KeyboardInterrupt):
            RobustEncoderTechnique(encoder=str(tmp_path / str(i)), device="cpu")
    assert asked == [(name, "cpu", torch.float32, ("safety_checker",)) for name in bases]
    unknown = Base.from_pipeline(tiny_pipe, family="tiny")
    make_encoder(tiny_pipe, base=unknown).save_pretrained(tmp_path / "unknown")
    told = refusal(settings, encoder=str(tmp_path / "unknown"), model_id=None)
    assert "found no Hub id; set model_id, to a folder or ORG/NAME" in told
    monkeypatch.undo()
    assert RobustEncoderTechnique(**{**settings, "encoder": str(tmp_path / "unknown")}).generate(["a cat"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": None}, "encoder: expected a name in the catalog, a folder or ORG/NAME, found none"),
        ({"encoder": 3}, "encoder: expected a text, found 3"),
        ({"num_inference_steps": 0, "seed": -1}, "num_inference_steps: expected at least 1, found 0; seed: expected a"),
        ({"num_inference_steps": 2.0}, "num_inference_steps: expected a whole number, found 2.0"),
        ({"use_fp16": "no"}, "use_fp16: expected true or false, found 'no'"),
        ({"guidance_scale": float("nan")}, "guidance_scale: expected a finite number, found nan"),
        ({"guidance_scale": -1}, "guidance_scale: expected at least 0, found -1"),
        ({"num_inference_step": 2}, "found 'num_inference_step'; did you mean 'num_inference_steps'?"),
        ({"preset": "MAX"}, "found 'preset'; known: encoder, model_id, erase_concept,"),
        (
            {"erase_concept": "nudity"},
            "expected 'circle' as erase_concept, which the encoder erases, found 'nudity'; c",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: Settings, changes: Settings, words: str) -> None:
    assert words in refusal(settings, **changes)


def test_settings_of_a_file_may_be_null_and_whole(settings: Settings) -> None:
    text = json.dumps({**settings, "seed": None, "use_fp16": None, "guidance_scale": 7})
    assert RobustEncoderTechnique(**json.loads(text)).config.guidance_scale == 7


def test_prompts_that_pandas_lost_are_refused(settings: Settings) -> None:
    technique = RobustEncoderTechnique(**settings)
    lost: Any = ["a cat", float("nan")]
    with pytest.raises(ValueError, match="found nan at place 2; correct the file of prompts: pandas reads empty cells"):
        technique.generate(lost)
    with pytest.raises(ValueError, match="expected a list of prompts, found one text: 'a cat'; put it into a list"):
        technique.generate("a cat")


def test_a_pipeline_that_does_not_fit_is_refused(settings: Settings, make_pipe: Callable[..., Any]) -> None:
    make_pipe(width=32).save_pretrained(settings["model_id"])
    with pytest.raises(IncompatibleError):
        RobustEncoderTechnique(**settings)


def test_a_doubt_about_the_pair_is_told_though_warnings_are_off(
    settings: Settings, tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder], tmp_path: Path
) -> None:
    make_encoder(tiny_pipe, base=Base(family="tiny")).save_pretrained(tmp_path / "unmeasured")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")
        RobustEncoderTechnique(**{**settings, "encoder": str(tmp_path / "unmeasured")})
    assert [one.category for one in told] == [CompatibilityWarning]
