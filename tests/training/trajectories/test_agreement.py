"""Trajectories are the pipeline's own latents, whatever its scheduler; otherwise they are refused before they are made.

Study: ``pytest -m slow -s tests/training/trajectories/test_agreement.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from recorded import record, table
from torch import Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.trajectories import agreement
from robust_encoders.training.trajectories.agreement import TrajectoryError, require_agreement
from robust_encoders.training.trajectories.bank import TrajectoryBank
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.trajectories.resample import open_source

SETTINGS = BankConfig(steps=2)
NAMED = (
    "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing", "rescale_betas_zero_snr",
    "steps_offset",
)  # fmt: skip
CLASSES = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
]  # fmt: skip


def exchanged(pipe: Any, name: str) -> Any:
    """Give a pipeline another scheduler, whose configuration says only what the class itself would save."""
    kind = getattr(diffusers, name)
    made = kind.from_config({one: pipe.scheduler.config[one] for one in NAMED})
    if "clip_sample" in made.config:
        made.register_to_config(clip_sample=False)  # as a pipeline's constructor does
    pipe.scheduler = made
    return pipe


@pytest.mark.parametrize("name", CLASSES)
def test_trajectories_are_equal_to_the_pipelines_latents(tiny_pipe: Any, name: str) -> None:
    backbone = Backbone.from_pipeline(exchanged(tiny_pipe, name))
    agreement._require_equal(backbone, "a red circle", 3.0)
    assert (backbone.unet_calls, backbone.agrees) == (0, False)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "PNDMScheduler"])
def test_a_bank_is_built_from_any_scheduler(name: str) -> None:
    backbone = Backbone.from_pipeline(exchanged(embedded_pipeline(), name))
    TrajectoryBank.build(backbone, ["a red circle"], SETTINGS, progress=False)
    assert backbone.agrees


@pytest.mark.parametrize("mode", ["bank", "fresh"])
def test_a_pipeline_that_clips_is_refused_with_both_numbers(mode: Any) -> None:
    """Its pictures are poor, and trajectories would be better than what the pipeline draws."""
    pipe = embedded_pipeline()
    pipe.scheduler.register_to_config(clip_sample=True)
    with pytest.raises(
        TrajectoryError, match=r"within 20% of that of the pipeline's own DDIMScheduler, found 3\.\d+ and 1\.\d+:"
    ):
        open_source(Backbone.from_pipeline(pipe), ["a red circle"], BankConfig(steps=2, mode=mode), progress=False)


def test_what_changes_the_unets_calls_is_found(tiny_pipe: Any) -> None:
    calls = iter(range(10**6))

    def odd(module: Any, args: Any, output: Any) -> Any:
        factor = 1 + 0.01 * next(calls)  # a pipeline asks for a tuple, a backbone for an object
        return (output[0] * factor,) if isinstance(output, tuple) else type(output)(sample=output.sample * factor)

    tiny_pipe.unet.register_forward_hook(odd)
    with pytest.raises(TrajectoryError, match="expected trajectories equal to the pipeline's latents"):
        require_agreement(Backbone.from_pipeline(tiny_pipe), "a red circle", 3.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_is_rounding(tiny_pipe: Any, dtype: torch.dtype) -> None:
    require_agreement(Backbone.from_pipeline(tiny_pipe.to(dtype)), "a red circle", 3.0)
    require_agreement(Backbone.from_pipeline(tiny_pipe, precision="bf16"), "a red circle", 3.0)


def test_the_check_is_made_once_and_leaves_the_parts_alone(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, schedule = Backbone.from_pipeline(tiny_pipe), dict(tiny_pipe.scheduler.config)
    before: dict[str, Tensor] = {name: one.clone() for name, one in tiny_pipe.unet.state_dict().items()}
    require_agreement(backbone, "a red circle", 3.0)
    assert dict(tiny_pipe.scheduler.config) == schedule
    assert all(torch.equal(one, before[name]) for name, one in tiny_pipe.unet.state_dict().items())
    monkeypatch.setattr(agreement, "_require_equal", lambda *_: pytest.fail("checked again"))
    require_agreement(backbone, "a red circle", 3.0)


@pytest.mark.slow
def test_every_scheduler_on_the_embedded_base() -> None:
    rows = []
    for name in CLASSES:
        backbone = Backbone.from_pipeline(exchanged(embedded_pipeline(), name))
        noise = agreement._noise(backbone, 4)
        with torch.no_grad():
            ours = agreement._ours(backbone, "a red circle", noise, steps=20, guidance=4.0)
            same, own = (
                agreement._drawn(backbone, one, "a red circle", noise, steps=20, guidance=4.0)
                for one in (backbone.scheduler, backbone.own_scheduler)
            )
        error = float((ours - same).norm() / same.norm())
        largest = [float(one.abs().max()) for one in (ours, own)]
        rows.append({"scheduler": name, "difference": error, "ours": largest[0], "own": largest[1]})
        assert error < 1e-3
        assert abs(largest[0] / largest[1] - 1) < 0.2
    where: Path = record("schedulers", {"rows": rows})
    sys.stdout.write(f"\n{table(rows)}\n{where}\n")
