"""DDIM on the noise schedule of any scheduler that a Stable Diffusion base can have."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers

from robust_encoders.training.diffusion.noise_schedule import ddim_of

# What the configuration of Stable Diffusion's Euler, DPM++ and UniPC files says: no word of DDIM's clipping.
SD: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 1,
}  # fmt: skip
WITHOUT_BETAS = {"EDMEulerScheduler"}
OPTIONAL = {"DPMSolverSDEScheduler"}  # it needs torchsde
NAMES = sorted({one.name for one in KarrasDiffusionSchedulers} - WITHOUT_BETAS - OPTIONAL)
NAMES += ["LCMScheduler", "TCDScheduler", "SASolverScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler"]


def scheduler_of(name: str, **settings: Any) -> Any:
    return getattr(diffusers, name).from_config({**SD, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_no_scheduler_makes_ddim_clip_latents(name: str) -> None:
    made: Any = ddim_of(scheduler_of(name))
    assert not made.config.clip_sample
    assert not made.config.thresholding
    assert made.config.prediction_type == "v_prediction"
    # This class alone has no setting for it, and draws on an even grid.
    assert made.config.timestep_spacing == ("linspace" if name == "DPMSolverSinglestepScheduler" else "trailing")
    torch.testing.assert_close(made.alphas_cumprod, scheduler_of(name).alphas_cumprod)


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_is_that_of_the_class(name: str) -> None:
    made: Any = ddim_of(scheduler_of(name, rescale_betas_zero_snr=True))
    own: Any = scheduler_of(name, rescale_betas_zero_snr=True)
    torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod, atol=2**-20, rtol=1e-4)


def test_a_leftover_of_another_class_does_not_count() -> None:
    """diffusers keeps in a configuration what the class does not read."""
    ddim: Any = scheduler_of("DDIMScheduler", clip_sample=True, set_alpha_to_one=False, rescale_betas_zero_snr=True)
    heun: Any = diffusers.HeunDiscreteScheduler.from_config(ddim.config)
    assert heun.config["rescale_betas_zero_snr"], "it is in there"
    made: Any = ddim_of(heun)
    assert made.alphas_cumprod[-1] > 1e-3
    assert made.config.set_alpha_to_one


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_what_the_last_step_ends_at_is_kept(name: str) -> None:
    for value in (True, False):
        made: Any = ddim_of(scheduler_of(name, set_alpha_to_one=value))
        assert made.config.set_alpha_to_one is value


def test_a_solver_that_ends_above_zero_noise_is_followed() -> None:
    made: Any = ddim_of(scheduler_of("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min"))
    assert not made.config.set_alpha_to_one


@pytest.mark.parametrize(
    "settings",
    [{"trained_betas": [0.001 * (i + 1) / 10 for i in range(1000)]}, {"beta_schedule": "squaredcos_cap_v2"}],
)
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler", "DDPMScheduler"])
def test_every_kind_of_betas_is_taken_over(name: str, settings: Any) -> None:
    made: Any = ddim_of(scheduler_of(name, **settings))
    torch.testing.assert_close(made.alphas_cumprod, scheduler_of(name, **settings).alphas_cumprod)


def test_a_schedule_that_ddim_has_no_name_for_is_taken_over_by_its_betas() -> None:
    own: Any = scheduler_of("DDPMScheduler", beta_schedule="sigmoid")
    made: Any = ddim_of(own)
    torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "with betas.*found FlowMatchEulerDiscreteScheduler"),
        (diffusers.EDMEulerScheduler(), "with betas.*found EDMEulerScheduler"),
        (diffusers.IPNDMScheduler(), "with betas.*found IPNDMScheduler"),
        (diffusers.RePaintScheduler(), "prediction type.*found RePaintScheduler"),
        (
            diffusers.DPMSolverMultistepScheduler(
                use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
            ),
            "found DPMSolverMultistepScheduler with use_flow_sigmas",
        ),
    ],
)
def test_schedulers_of_other_models_are_refused(scheduler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ddim_of(scheduler)
