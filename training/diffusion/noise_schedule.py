"""The DDIM scheduler that runs trajectories on the noise schedule of a base, whichever scheduler the base has."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

# Settings that DDIM reads from its configuration in addition to the noise schedule itself.
SCHEDULE = (
    "num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample",
    "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
)  # fmt: skip
# Names of noise schedules that DDIM computes itself, from ``beta_start`` and ``beta_end``.
_BY_NAME = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Latents are not clipped, as in every pipeline of Stable Diffusion; DDIM's own defaults would clip them to [-1, 1].
_UNCLIPPED = {
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
# Values for a scheduler whose class lacks the setting.
_MISSING = {"rescale_betas_zero_snr": False, "steps_offset": 1, "timestep_spacing": "linspace"}
# Some schedulers replace the last value, 0 with zero terminal SNR, by a small one.
_TOLERANCE = 2**-20


def ddim_of(scheduler: Any) -> DDIMScheduler:
    """Return a DDIM scheduler (Song et al. 2021) with the noise schedule and the grid of timesteps of a scheduler.

    Betas, prediction type, zero terminal SNR and timestep spacing are the scheduler's, if its own class has them. A
    configuration may hold leftovers of another class, which the pipeline does not read. Every other setting is given
    here, so no default of DDIM acts, and latents are not clipped.

    Args:
        scheduler: Scheduler of diffusers with discrete timesteps and betas, as Stable Diffusion has.

    Raises:
        ValueError: If the scheduler has no betas (flow matching, EDM) or no prediction type, or if DDIM on the same
            betas has another noise schedule.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    own = inspect.signature(type(scheduler).__init__).parameters
    _refuse_others(scheduler, own)
    values = {name: config[name] if name in own else value for name, value in _MISSING.items()}
    # Without the setting, the last step of the other classes ends at a signal of 1, except with ``sigma_min``.
    ends_at_one = config["final_sigmas_type"] != "sigma_min" if "final_sigmas_type" in own else True
    ddim: Any = DDIMScheduler
    made: DDIMScheduler = ddim(
        **_UNCLIPPED,
        **values,
        **_betas(scheduler, own),
        num_train_timesteps=config["num_train_timesteps"],
        prediction_type=config["prediction_type"],
        set_alpha_to_one=config["set_alpha_to_one"] if "set_alpha_to_one" in own else ends_at_one,
    )
    found: Any = made
    if not torch.allclose(found.alphas_cumprod, scheduler.alphas_cumprod.cpu(), rtol=1e-4, atol=_TOLERANCE):
        raise ValueError(
            f"expected DDIM to have the noise schedule of {kind} on the same betas, found another one: set the "
            "pipeline's scheduler to a DDIMScheduler with the betas that the UNet was trained with"
        )
    return made


def _refuse_others(scheduler: Any, own: Any) -> None:
    kind = type(scheduler).__name__
    remedy = "set the pipeline's scheduler to a DDIMScheduler with the betas that the UNet was trained with"
    if not all(isinstance(getattr(scheduler, name, None), Tensor) for name in ("betas", "alphas_cumprod")):
        raise ValueError(
            f"expected a scheduler with betas, as Stable Diffusion has, found {kind}, which has none: {remedy}"
        )
    if "prediction_type" not in own:
        raise ValueError(f"expected a scheduler with a prediction type, found {kind}, which has none: {remedy}")
    if scheduler.config.get("use_flow_sigmas") and "use_flow_sigmas" in own:
        raise ValueError(f"expected a scheduler on its betas, found {kind} with use_flow_sigmas: {remedy}")


def _betas(scheduler: Any, own: Any) -> dict[str, Any]:
    config = scheduler.config
    if "beta_schedule" in own and config["trained_betas"] is None and config["beta_schedule"] in _BY_NAME:
        return {name: config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    # They may have been rescaled to zero terminal SNR already; doing so again changes nothing.
    return {"trained_betas": scheduler.betas.tolist()}
