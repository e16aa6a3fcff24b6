from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders.training.diffusion.backbone import Backbone, computes_bf16_in_fp32
from robust_encoders.training.trajectories.bank import TrajectoryBank, bank_key
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.trajectories.resample import FreshTrajectories, open_source
from robust_encoders.training.trajectories.rollout import start_noise
from robust_encoders.training.trajectories.store import BankStore

PROMPTS = ["a red circle", "nudity", "a star"]
SETTINGS = BankConfig(steps=4, guidance=2.0, seeds=2, batch=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def build(backbone: Backbone, prompts: list[str] | None = None, **overrides: Any) -> TrajectoryBank:
    return TrajectoryBank.build(backbone, prompts or PROMPTS, SETTINGS, progress=False, **overrides)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stored_predictions_equal_fresh_ones(make_pipe: Callable[..., Any], prediction_type: str) -> None:
    backbone = Backbone.from_pipeline(make_pipe(prediction_type=prediction_type))
    anchors = ["a red", "", "a square"]
    points = build(backbone, anchors=anchors).sample(16, generator())
    texts = [PROMPTS[i] for i in points.prompt_index.tolist()]
    null = backbone.condition([""]).expand(16, -1, -1)
    for stored, cond in (
        (points.pred_cond, backbone.condition(texts)),
        (points.pred_null, null),
        (points.pred_anchor, backbone.condition([anchors[i] for i in points.prompt_index.tolist()])),
    ):
        assert stored is not None
        assert stored.dtype == torch.float32
        fresh = backbone.predict(points.latents, points.t, cond)
        torch.testing.assert_close(stored, fresh, rtol=2e-3, atol=1e-3)


@torch.no_grad()
def test_latents_lie_on_guided_ddim_trajectories(backbone: Backbone) -> None:
    shard = build(backbone).shards[1][0]
    noise = start_noise(backbone, PROMPTS[1], 0).half().float()[None]
    cond = backbone.condition([PROMPTS[1]])
    kept = backbone.sample(cond, noise=noise, steps=4, guidance=2.0, keep=True)[:-1, 0]
    assert shard["t"].tolist() == backbone.timesteps(4).tolist()
    torch.testing.assert_close(shard["latents"].float(), kept, rtol=1e-2, atol=1e-2)


def test_unet_calls_are_counted(backbone: Backbone) -> None:
    build(backbone)
    assert backbone.unet_calls == 3 * 2 * 4 * 2  # prompts, seeds, steps, with and without prompt
    build(backbone, anchors=["", "", ""])
    assert backbone.unet_calls == 3 * 2 * 4 * (2 + 3)


def test_points_come_from_every_prompt_seed_and_step(backbone: Backbone) -> None:
    bank = build(backbone)
    points = bank.sample(300, generator())
    assert points.latents.shape == (300, 4, 8, 8)
    assert set(points.prompt_index.tolist()) == {0, 1, 2}
    assert set(points.t.tolist()) == set(backbone.timesteps(4).tolist())
    assert len({float(x) for x in points.latents.flatten(1).sum(1)}) == 3 * 2 * 4
    again = bank.sample(300, generator())
    assert torch.equal(points.latents, again.latents)


def test_points_can_be_drawn_for_given_prompts(backbone: Backbone) -> None:
    bank = build(backbone)
    index = torch.tensor([2, 0, 0])
    points = bank.sample(3, generator(), prompt_index=index)
    assert torch.equal(points.prompt_index, index)
    for row, i in zip(points.latents, index.tolist(), strict=True):
        assert any(torch.equal(row, x.float()) for shard in bank.shards[i] for x in shard["latents"])


def test_a_bank_on_disk_is_reused_and_extended(backbone: Backbone, tmp_path: Path) -> None:
    first = build(backbone, cache_dir=tmp_path / "cache")
    calls = backbone.unet_calls
    again = build(backbone, cache_dir=tmp_path / "cache")
    assert backbone.unet_calls == calls
    assert torch.equal(first.sample(9, generator()).pred_cond, again.sample(9, generator()).pred_cond)
    longer = build(backbone, [*PROMPTS, "a ring"], cache_dir=tmp_path / "cache")
    assert backbone.unet_calls == calls + 2 * 4 * 2
    assert torch.equal(longer.shards[2][1]["latents"], first.shards[2][1]["latents"])
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 4 * 2
    assert json.loads((folder / "key.json").read_text()) == bank_key(backbone, SETTINGS)


def test_an_interrupted_build_goes_on(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(backbone)
    written = 0
    write = BankStore.write

    def failing(store: BankStore, name: str, shard: Any) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        write(store, name, shard)

    monkeypatch.setattr(BankStore, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        build(backbone, cache_dir=tmp_path / "cache")
    calls = backbone.unet_calls
    resumed = build(backbone, cache_dir=tmp_path / "cache")
    assert backbone.unet_calls == calls + 3 * 4 * 2  # three of six shards had been written
    assert torch.allclose(resumed.sample(9, generator()).latents, whole.sample(9, generator()).latents, atol=2e-3)
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_what_a_trajectory_depends_on_is_in_the_key(
    make_pipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robust_encoders.training.diffusion.backbone.has_bf16", lambda: True)
    base = Backbone.from_pipeline(make_pipe())
    key = bank_key(base, SETTINGS)
    assert key == bank_key(Backbone.from_pipeline(make_pipe()), SETTINGS)
    others = [
        bank_key(Backbone.from_pipeline(make_pipe(seed=1)), SETTINGS),
        bank_key(Backbone.from_pipeline(make_pipe(prediction_type="v_prediction")), SETTINGS),
        bank_key(base.sharing(precision="bf16"), SETTINGS),
        bank_key(base, replace(SETTINGS, guidance=3.0)),
        bank_key(base, replace(SETTINGS, steps=5)),
    ]
    spaced = make_pipe()
    spaced.scheduler.register_to_config(timestep_spacing="trailing")
    others.append(bank_key(Backbone.from_pipeline(spaced), SETTINGS))
    with torch.no_grad():
        next(iter(base.unet.parameters())).view(-1)[1] += 1e-3
    others.append(bank_key(base, SETTINGS))
    assert key not in others
    assert len({json.dumps(other, sort_keys=True) for other in others}) == len(others)
    assert bank_key(base, replace(SETTINGS, seeds=9, batch=1, limit=2)) == others[-1]


def test_mean_difference_is_that_of_the_predictions(backbone: Backbone) -> None:
    bank = build(backbone)
    points = bank.sample(4000, generator())
    naive = float((points.pred_cond - points.pred_null).square().mean())
    assert bank.mean_difference() == pytest.approx(naive, rel=0.1)


@torch.no_grad()
def test_resampled_points_are_exact_and_fresh(backbone: Backbone) -> None:
    source = FreshTrajectories(backbone, PROMPTS, SETTINGS, anchors=["", "", ""])
    g = generator()
    points, other = source.sample(7, g), source.sample(7, g)
    assert not torch.equal(points.latents, other.latents)
    cond = backbone.condition([PROMPTS[i] for i in points.prompt_index.tolist()])
    null = backbone.condition([""]).expand(7, -1, -1)
    for stored, c in ((points.pred_cond, cond), (points.pred_null, null), (points.pred_anchor, null)):
        assert stored is not None
        torch.testing.assert_close(stored, backbone.predict(points.latents, points.t, c), rtol=1e-4, atol=1e-5)
    assert set(points.t.tolist()) <= set(backbone.timesteps(4).tolist())


@torch.no_grad()
def test_resampled_points_lie_on_trajectories_of_their_own_noise(backbone: Backbone) -> None:
    index = torch.tensor([0, 1, 2, 0, 1])
    points = FreshTrajectories(backbone, PROMPTS, SETTINGS).sample(5, generator(4), prompt_index=index)
    g = generator(4)
    stop = torch.randint(4, (5,), generator=g)
    noise = torch.randn((5, *backbone.latent_shape), generator=g)
    cond = backbone.condition([PROMPTS[i] for i in index.tolist()])
    whole = backbone.sample(cond, noise=noise, steps=4, guidance=2.0, keep=True)
    expected = torch.stack([whole[k, i] for i, k in enumerate(stop.tolist())])
    torch.testing.assert_close(points.latents, expected, rtol=1e-4, atol=1e-5)
    assert points.t.tolist() == backbone.timesteps(4)[stop].tolist()


def test_the_settings_choose_the_source(backbone: Backbone) -> None:
    limited = replace(SETTINGS, limit=2)
    bank = open_source(backbone, PROMPTS, limited, anchors=["", "", ""], progress=False)
    assert isinstance(bank, TrajectoryBank)
    assert bank.prompts == tuple(PROMPTS[:2])
    fresh = open_source(backbone, PROMPTS, replace(SETTINGS, mode="fresh"))
    assert isinstance(fresh, FreshTrajectories)
    assert fresh.mean_difference() > 0


def test_more_seeds_extend_a_bank_and_leave_its_files_alone(backbone: Backbone, tmp_path: Path) -> None:
    build(backbone, cache_dir=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    calls = backbone.unet_calls
    more = TrajectoryBank.build(
        backbone, PROMPTS, replace(SETTINGS, seeds=3), cache_dir=tmp_path / "cache", progress=False
    )
    assert backbone.unet_calls == calls + 3 * 4 * 2
    assert [len(group) for group in more.shards] == [3, 3, 3]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}.items()


def test_the_concept_and_the_retain_set_may_have_their_own_numbers_of_trajectories(backbone: Backbone) -> None:
    settings = replace(SETTINGS, seeds=(5, 1))
    assert (settings.for_concept().seeds, settings.for_retain().seeds) == (5, 1)
    assert SETTINGS.for_concept() == SETTINGS.for_retain() == SETTINGS
    with pytest.raises(ValueError, match="one number of seeds, found \\(5, 1\\)"):
        TrajectoryBank.build(backbone, PROMPTS, settings)
    with pytest.raises(ValueError, match="at least 1"):
        replace(SETTINGS, seeds=(5, 0))


def test_a_unet_in_half_precision_runs_trajectories_in_single(make_pipe: Callable[..., Any]) -> None:
    pipe = make_pipe()
    exact = build(Backbone.from_pipeline(pipe))
    pipe.unet.to(torch.bfloat16)
    rounded = build(Backbone.from_pipeline(pipe, precision="bf16"))
    assert torch.equal(rounded.shards[0][0]["latents"][0], exact.shards[0][0]["latents"][0])
    torch.testing.assert_close(rounded.shards[0][0]["latents"], exact.shards[0][0]["latents"], rtol=0.1, atol=0.1)
    fresh = FreshTrajectories(Backbone.from_pipeline(pipe, precision="bf16"), PROMPTS, SETTINGS).sample(5, generator())
    assert fresh.latents.dtype == fresh.pred_cond.dtype == torch.float32


def test_a_bank_may_be_built_in_another_precision_than_the_training(backbone: Backbone, tmp_path: Path) -> None:
    settings = BankConfig(steps=3, seeds=1, precision="bf16")
    bank = TrajectoryBank.build(backbone, ["a star"], settings, cache_dir=tmp_path, progress=False)
    other = backbone.sharing(precision="bf16")
    same = TrajectoryBank.build(other, ["a star"], replace(settings, precision=None), progress=False)
    assert backbone.unet_calls == other.unet_calls > 0
    assert torch.equal(bank.shards[0][0]["pred_cond"], same.shards[0][0]["pred_cond"])
    plain = TrajectoryBank.build(backbone, ["a star"], replace(settings, precision=None), progress=False)
    exact = torch.equal(bank.shards[0][0]["pred_cond"], plain.shards[0][0]["pred_cond"])
    assert exact == computes_bf16_in_fp32(backbone.device)


@pytest.mark.parametrize("settings", [{"precision": "fp8"}, {"precision": "bf16", "mode": "fresh"}])
def test_a_precision_that_no_bank_has_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="precision"):
        BankConfig(**settings)


def test_impossible_banks_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="one anchor for each, found 3 prompts and 1 anchors"):
        build(backbone, anchors=[""])
    with pytest.raises(ValueError, match="found 0 prompts"):
        TrajectoryBank.build(backbone, [], SETTINGS)
    with pytest.raises(ValueError, match="at least 1"):
        BankConfig(steps=0)
    with pytest.raises(ValueError, match="found 'disk'"):
        BankConfig(mode="disk")  # type: ignore[arg-type]
