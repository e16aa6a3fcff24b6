from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import RobustEncoder
from robust_encoders.artifact.fingerprint import compare, sketch
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.training.artifact import to_encoder
from robust_encoders.training.evaluation.manifest_results import with_results
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.methods import ESD, METHODS, AdvUnlearn
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit, Result

CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
METHOD = ESD(
    retain=RetainConfig(prompts=("a star", "a cross"), batch=2),
    train=TrainingConfig(iterations=3, rate=1e-2),
    bank=BankConfig(steps=2),
)
RECIPE = Recipe(name="tiny/circle", concept=CIRCLE, method=METHOD, seed=4, base="tiny")


def test_a_run_becomes_an_artifact_that_attaches(tiny_pipe: Any, tmp_path: Path) -> None:
    made = run_recipe(RECIPE, tiny_pipe, tmp_path / "out", progress=False)
    loaded = RobustEncoder.from_pretrained(str(tmp_path / "out"))
    assert loaded.check(tiny_pipe).ok
    assert {path.name for path in tmp_path.iterdir()} >= {"out"}
    assert not (tmp_path / "out.work").exists()
    ids = tiny_pipe.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        before = tiny_pipe.text_encoder(ids)[0]
        with loaded.attached(tiny_pipe):
            after = tiny_pipe.text_encoder(ids)[0]
        assert isinstance(made, RobustEncoder)
        again = made.text_encoder()(ids)[0]
    assert not torch.equal(before, after)
    assert torch.equal(after, again)


def test_the_manifest_is_enough_to_run_again(tiny_pipe: Any, tmp_path: Path) -> None:
    run_recipe(RECIPE, tiny_pipe, tmp_path / "out", progress=False, cache_dir=tmp_path / "cache")
    manifest = RobustEncoder.from_pretrained(str(tmp_path / "out")).manifest
    assert manifest.concept == CIRCLE
    assert manifest.method == describe(METHOD)
    assert manifest.recipe["name"] == "tiny/circle"
    assert manifest.recipe["seed"] == 4
    assert manifest.recipe["run"]["unet_calls"] == 3 * 2 * (1 + 2)
    assert manifest.recipe["run"]["seconds"] >= 0
    assert manifest.base.family == "tiny"
    assert manifest.base.text_encoder is not None
    assert manifest.base.unet is not None
    assert manifest.base.tokenizer is not None
    assert compare(sketch(nested_state(tiny_pipe.text_encoder)), manifest.base.text_encoder).kind == "same"
    assert compare(sketch(tiny_pipe.unet.state_dict()), manifest.base.unet).kind == "same"
    assert manifest.versions["torch"] == torch.__version__
    assert list((tmp_path / "cache").iterdir())


def test_a_rerun_gives_the_same_bits(tiny_pipe: Any, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run_recipe(RECIPE, tiny_pipe, tmp_path / name, progress=False)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_configuration_is_written_with_the_names_of_its_parts() -> None:
    method = AdvUnlearn(retain=RetainConfig(prompts=("a star",)))
    described = describe(method)
    assert described["name"] == "advunlearn"
    assert described["attack"] == {"name": "soft_prompt", "steps": 30, "rate": 1e-3, "rule": "adam"}
    assert described["retain"]["prompts"] == ["a star"]
    assert described["select"] == {"layers": None, "part": "all", "final_norm": True}
    assert json.loads(json.dumps(described)) == described
    assert describe({"a": {1: (2, None)}}) == {"a": {"1": [2, None]}}


def test_values_without_a_json_form_are_refused() -> None:
    @dataclass
    class Odd:
        value: object

    with pytest.raises(TypeError, match="it has no JSON form"):
        describe(Odd(torch.zeros(1)))


def test_an_edit_is_recorded_with_its_log(tiny_pipe: Any) -> None:
    config = tiny_pipe.text_encoder.config.to_dict()
    edit = Edit("weights", "text_encoder", nested_state(tiny_pipe.text_encoder), config, {"seconds": 1.5})
    encoder = to_encoder(
        edit,
        concept=CIRCLE,
        method=METHOD,
        pipe=tiny_pipe,
        recipe={"seed": 1},
        family="tiny",
        ids=("o/n",),
        license="mit",
    )
    assert encoder.manifest.recipe == {"seed": 1, "run": {"seconds": 1.5}}
    assert encoder.manifest.base.ids == ("o/n",)
    assert encoder.manifest.license == "mit"
    assert encoder.manifest.method["name"] in METHODS


def test_measured_numbers_travel_with_the_artifact_and_change_nothing_else(
    tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    encoder = tiny_encoder
    erased = encoder.manifest.concept.name
    evaluation = Evaluation("esd", erased, (Result("pre_asr", 0.25, 8, (0.1, 0.6), seeds=(0,)),))
    encoder.save_pretrained(tmp_path / "a")
    with_results(encoder, evaluation).save_pretrained(tmp_path / "a")
    loaded = RobustEncoder.from_pretrained(tmp_path / "a")
    assert list(loaded.manifest.results) == list(evaluation.records())
    assert loaded.content_sha256 == encoder.content_sha256
    with pytest.raises(ValueError, match=f"expected an evaluation of '{erased}', found one of 'moon'"):
        with_results(encoder, Evaluation("esd", "moon", ()))


def test_a_manifest_carries_what_the_checks_tell_against_a_number(tiny_encoder: RobustEncoder) -> None:
    def asr(label: str, tier: str) -> Result:
        return Result("asr_any", 0.25, 8, settings={"attack": {"label": label, "tier": tier}})

    checks = (
        {"name": "white_not_below_black", "attack": "weak", "ok": False, "detail": "too weak"},
        {"name": "more_is_not_weaker", "attack": "weak", "ok": True, "detail": "fine"},
        {"name": "seeds_differ", "attack": "weak", "ok": False, "detail": "nothing random"},
        {"name": "gradients_alive", "attack": "", "ok": False, "detail": "no gradient"},
    )
    numbers = (asr("weak", "T3"), asr("other", "T4"), asr("plain", "T0"), Result("clip_score", 0.5, 8))
    evaluation = Evaluation("esd", tiny_encoder.manifest.concept.name, numbers, checks=checks)
    records = with_results(tiny_encoder, evaluation).manifest.results
    told = [record["settings"].get("doubts") for record in records]
    assert told == [["too weak", "no gradient"], ["no gradient"], None, None]
    assert evaluation.results == numbers
