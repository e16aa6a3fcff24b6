"""What the end of a training needs is asked before its first computation, and all that is missing is told at once."""

from __future__ import annotations

import shutil
import warnings
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CIRCLE, RETAIN, TINY

from robust_encoders import Concept, NotReadyError
from robust_encoders.training.methods import ESD, SPM, AdvUnlearn, Receler
from robust_encoders.training.methods.esd import NOTHING_RETAINED
from robust_encoders.training.methods.spm import SPMTrainingConfig
from robust_encoders.training.objectives.config import OutlierConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.prompts.adversarial_rows import AdversarialRowsConfig
from robust_encoders.training.protocols import Method
from robust_encoders.training.recipes.preflight import TrainingPlaces, disk_needs
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig

Usage = namedtuple("Usage", "total used free")
ANCHORED = replace(CIRCLE, anchor="star")


def recipe(method: Method = TINY, concept: Concept = CIRCLE, **changes: Any) -> Recipe:
    return replace(Recipe(name="tiny/circle", concept=concept, method=method, base="tiny"), **changes)


def refused(pipe: Any, out: Path, made: Recipe, **options: Any) -> str:
    """Run a recipe that is refused, and return what is said; nothing was computed and nothing lies on the disk."""
    calls: list[Any] = []
    handle = pipe.unet.register_forward_hook(lambda *call: calls.append(call))
    with pytest.raises(NotReadyError) as error:
        run_recipe(made, pipe, out, progress=False, **options)
    handle.remove()
    assert calls == []
    assert not out.with_name(f"{out.name}.work").exists()
    return str(error.value)


def test_everything_that_is_missing_is_told_at_once(tiny_pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    said = refused(
        tiny_pipe, tmp_path / "out", recipe(seed=2**70), cache_dir=tmp_path / "file",
    )  # fmt: skip
    assert said.startswith("3 things are missing or wrong:")
    assert "found other files" in said
    assert f"{tmp_path / 'file'}" in said
    assert "expected a seed from" in said


@pytest.mark.parametrize("place", ["out", "out.work"])
def test_a_file_in_the_place_of_a_folder_is_refused(tiny_pipe: Any, tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("mine")
    with pytest.raises(NotReadyError, match="found a file"):
        run_recipe(recipe(), tiny_pipe, tmp_path / "out", progress=False)


def test_an_artifact_in_the_folder_is_replaced_and_a_stopped_run_goes_on(tiny_pipe: Any, tmp_path: Path) -> None:
    run_recipe(recipe(), tiny_pipe, tmp_path / "out", progress=False, cache_dir=tmp_path / "bank", every=2)
    (tmp_path / "out.work" / "checkpoints").mkdir(parents=True)
    again = run_recipe(recipe(), tiny_pipe, tmp_path / "out", progress=False, cache_dir=tmp_path / "bank")
    assert again.manifest.concept.name == "circle"


def test_one_string_instead_of_several_is_named(tiny_pipe: Any, tmp_path: Path) -> None:
    wrong = RetainConfig(prompts="a star, a ring", batch=3)  # type: ignore[arg-type]  # what is refused
    outliers = OutlierConfig(alternatives="star")  # type: ignore[arg-type]  # what is refused
    said = refused(tiny_pipe, tmp_path / "out", recipe(replace(TINY, retain=wrong, outliers=outliers)))
    assert "method.retain.prompts: expected several strings, found one, 'a star, a ring'; write ('a star'" in said
    assert "method.outliers.alternatives: expected several strings" in said


def test_a_list_in_one_word_is_warned_of_by_name(tiny_pipe: Any, tmp_path: Path) -> None:
    listed = replace(CIRCLE, synonyms=("disc, ball",), prompts=("a red circle",))
    with pytest.warns(UserWarning, match=r"'disc, ball'.*--also"):
        run_recipe(recipe(concept=listed), tiny_pipe, tmp_path / "out", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run_recipe(recipe(), tiny_pipe, tmp_path / "out", progress=False)


def test_hub_ids_are_several(tiny_pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="base_ids"):
        run_recipe(recipe(), tiny_pipe, tmp_path / "out", base_ids="org/name")  # type: ignore[arg-type]  # is refused


def test_a_base_of_another_kind_is_refused_in_words(tiny_pipe: Any, tmp_path: Path) -> None:
    tiny_pipe.unet.register_to_config(in_channels=9)
    assert "an inpainting base" in refused(tiny_pipe, tmp_path / "out", recipe())


@pytest.fixture
def measured(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The largest sizes of the folders of a run while it lasts, by name."""
    found: dict[str, int] = {}

    def look(*call: object) -> None:
        for name, pattern in (("bank", "bank/**/*.safetensors"), ("work", "out.work/checkpoints/**/*.safetensors")):
            size = sum(path.stat().st_size for path in tmp_path.glob(pattern))
            found[name] = max(found.get(name, 0), size)

    replaced = shutil.rmtree

    def rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
        look()
        replaced(path, *args, **kwargs)

    monkeypatch.setattr("robust_encoders.training.trainer.checkpoint.shutil.rmtree", rmtree)
    return found


FEW = BankConfig(steps=3, seeds=(2, 1))
SHORT = TrainingConfig(iterations=3, rate=1e-3)
METHODS: dict[str, Method] = {
    "AdvUnlearn": replace(TINY, bank=FEW),
    "with an average and anchors": replace(
        TINY, bank=FEW, train=replace(SHORT, average=0.9), unlearn=UnlearnConfig(batch=2, target="anchor")
    ),
    "ESD on the UNet": ESD(
        component="unet", retain=NOTHING_RETAINED, bank=FEW, train=SHORT, unet=UNetSelectionConfig(group="x")
    ),
    "moments in bfloat16": ESD(
        retain=replace(TINY.retain, batch=2), bank=replace(FEW, limit=2), train=replace(SHORT, moments="bf16")
    ),
    "a bank of SPM": SPM(rollout="bank", bank=FEW, train=SPMTrainingConfig(iterations=3, warmup=0)),
    "a bank of Receler": Receler(
        rank=2, rollout="bank", bank=FEW, retain=RETAIN, retain_batch=1, train=SHORT,
        attack=AdversarialRowsConfig(tokens=2, steps=0),
    ),
    "fresh trajectories": replace(TINY, bank=replace(FEW, mode="fresh")),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_the_estimate_is_what_a_run_takes(
    tiny_pipe: Any, tmp_path: Path, measured: dict[str, int], method: Method
) -> None:
    made, places = recipe(method, ANCHORED), TrainingPlaces(out=tmp_path / "out", cache_dir=tmp_path / "bank")
    needs = {need.what: need.size for need in disk_needs(made, tiny_pipe, places, 1)}
    run_recipe(made, tiny_pipe, tmp_path / "out", progress=False, cache_dir=tmp_path / "bank", every=1)
    bank = sum(path.stat().st_size for path in (tmp_path / "bank").rglob("*.safetensors"))
    artifact = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    files = len(list((tmp_path / "bank").rglob("*.safetensors")))
    assert needs["trajectories"] <= bank <= needs["trajectories"] + 1000 * files  # headers and timesteps
    assert needs["the artifact"] <= artifact
    if needs["checkpoints"]:
        # The headers weigh much beside the few values of a tiny model.
        assert needs["checkpoints"] <= measured["work"] <= needs["checkpoints"] + 50_000
    # What lies there already needs no further space.
    left = {need.what: need.size for need in disk_needs(made, tiny_pipe, places, 1)}
    assert left["trajectories"] == 0


def test_a_disk_that_is_too_small_is_told_with_the_sum(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robust_encoders.utils.targets.shutil.disk_usage", lambda place: Usage(10**6, 0, 1000))
    said = refused(tiny_pipe, tmp_path / "out", recipe(), every=1)
    assert "of free space on the disk" in said
    assert "for trajectories + " in said
    assert "for checkpoints + " in said
    assert "found 1 kB" in said


def test_a_method_that_does_not_tell_is_run(tiny_pipe: Any, tmp_path: Path) -> None:
    class Silent(AdvUnlearn):
        """A method without an estimate."""

        stored = None  # type: ignore[assignment]  # what a method of another package lacks

    assert torch.is_tensor(next(iter(tiny_pipe.unet.parameters())))
    places = TrainingPlaces(out=tmp_path / "out")
    assert disk_needs(recipe(Silent(retain=TINY.retain)), tiny_pipe, places, 1) == []
