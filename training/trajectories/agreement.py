"""The check that trajectories are those of the pipeline itself, before hours are spent on them.

The pipeline is made of the parts of the base, without an autoencoder.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from robust_encoders.errors import TrainingError

from ..diffusion.backbone import AUTOCAST, Backbone
from ..diffusion.noise_schedule import SCHEDULE
from ..diffusion.two_encoders import TwoEncoderBackbone

# Steps and pictures: few for equality, enough for the largest latent of two schedulers to be comparable.
_EXACT = (4, 1)
_LARGEST = (20, 4)
_SPREAD = 0.2  # largest relative difference of the largest latents
_ROUNDING = {True: 1e-3, False: 0.3}  # relative difference of all latents, in float32 or not


class TrajectoryError(TrainingError):
    """Trajectories differ from what the pipeline draws."""


@torch.no_grad()
def require_agreement(backbone: Backbone, prompt: str, guidance: float) -> None:
    """Compare trajectories with a Stable Diffusion pipeline of the same parts; once for each backbone.

    With exactly the trajectories' scheduler in it, the pipeline must give the same latents, up to rounding. With its
    own scheduler, the largest latent must lie within 20 % of the largest latent of the trajectories.

    Args:
        backbone: The frozen base; its counter of UNet calls stays as it is.
        prompt: Prompt of the pictures.
        guidance: Classifier-free guidance scale.

    Raises:
        TrajectoryError: If one of them differs; the message has both numbers.
    """
    if backbone.agrees:
        return
    _require_equal(backbone, prompt, guidance)
    if not _is_the_same(backbone.own_scheduler, backbone.scheduler):
        _require_alike(backbone, prompt, guidance)
    backbone.agrees = True


def _require_equal(backbone: Backbone, prompt: str, guidance: float) -> None:
    steps, n = _EXACT
    noise = _noise(backbone, n)
    ours = _ours(backbone, prompt, noise, steps=steps, guidance=guidance)
    theirs = _drawn(backbone, backbone.scheduler, prompt, noise, steps=steps, guidance=guidance)
    error = float((ours - theirs).norm() / theirs.norm())
    exact = backbone.dtype == torch.float32 and backbone.computes_in == "fp32"
    if not error <= _ROUNDING[exact]:
        raise TrajectoryError(
            f"expected trajectories equal to the pipeline's latents up to {_ROUNDING[exact]:g}, found them {error:.2g} "
            f"apart (largest latents {float(ours.abs().max()):.3g} and {float(theirs.abs().max()):.3g}): remove what "
            "changes the calls of the text encoder or the UNet, such as hooks, before training"
        )


def _require_alike(backbone: Backbone, prompt: str, guidance: float) -> None:
    steps, n = _LARGEST
    noise = _noise(backbone, n)
    ours = float(_ours(backbone, prompt, noise, steps=steps, guidance=guidance).abs().max())
    theirs = float(_drawn(backbone, backbone.own_scheduler, prompt, noise, steps=steps, guidance=guidance).abs().max())
    if not abs(ours / theirs - 1) <= _SPREAD:
        raise TrajectoryError(
            f"expected the largest latent of trajectories within {_SPREAD:.0%} of that of the pipeline's own "
            f"{type(backbone.own_scheduler).__name__}, found {ours:.3g} and {theirs:.3g}: check prediction type "
            "and betas of the scheduler and switch off its clip_sample and thresholding, or set the pipeline's "
            "scheduler to a DDIMScheduler that draws good pictures"
        )


def _is_the_same(own: Any, ddim: Any) -> bool:
    """Return true if a pipeline's own scheduler is DDIM with the trajectories' settings; it gives the same latents."""
    return type(own) is DDIMScheduler and all(own.config[name] == ddim.config[name] for name in SCHEDULE)


def _noise(backbone: Backbone, n: int) -> Tensor:
    noise = torch.randn((n, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
    return noise.to(backbone.device)


def _ours(backbone: Backbone, prompt: str, noise: Tensor, *, steps: int, guidance: float) -> Tensor:
    apart = backbone.sharing()  # it counts its own UNet calls
    cond = apart.condition([prompt]).expand(len(noise), -1, -1)
    return apart.sample(cond, noise=noise, steps=steps, guidance=guidance).float()


def _drawn(backbone: Backbone, scheduler: Any, prompt: str, noise: Tensor, *, steps: int, guidance: float) -> Tensor:
    """Return the final latents of the pipeline with a scheduler, from noise of unit variance."""
    # A pipeline cannot encode text in another precision than its UNet's; it gets the conditionings then.
    mixed = backbone.text_encoder.dtype != backbone.dtype
    pipe = _pipeline(backbone, with_text=not mixed)
    # Its constructor changes settings of a scheduler.
    pipe.scheduler = copy.deepcopy(scheduler)
    pipe.set_progress_bar_config(disable=True)
    low = AUTOCAST.get(backbone.computes_in)
    with torch.autocast(backbone.device.type, dtype=low, enabled=low is not None):
        latents: Tensor = pipe(
            **(_conditionings(backbone, prompt, len(noise)) if mixed else {"prompt": [prompt] * len(noise)}),
            **_sizes(backbone),
            latents=noise.to(backbone.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(i) for i in range(len(noise))],
            output_type="latent",
        ).images
    return latents.float()


def _pipeline(backbone: Backbone, *, with_text: bool) -> Any:
    parts = {"vae": None, "unet": backbone.unet, "scheduler": copy.deepcopy(backbone.scheduler)}
    if isinstance(backbone, TwoEncoderBackbone):
        first, second = backbone.slots
        double: Any = StableDiffusionXLPipeline
        return double(
            **parts,
            text_encoder=first.text_encoder if with_text else None,
            text_encoder_2=second.text_encoder if with_text else None,
            tokenizer=first.tokenizer,
            tokenizer_2=second.tokenizer,
            force_zeros_for_empty_prompt=backbone.drawn.zero_null,
            add_watermarker=False,
        )
    single: Any = StableDiffusionPipeline
    return single(
        **parts,
        text_encoder=backbone.text_encoder if with_text else None,
        tokenizer=backbone.tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sizes(backbone: Backbone) -> dict[str, Any]:
    """Return the sizes that SDXL's UNet is told; without an autoencoder, the pipeline would guess them."""
    if not isinstance(backbone, TwoEncoderBackbone):
        return {}
    return {"original_size": backbone.drawn.size, "target_size": backbone.drawn.size}


def _conditionings(backbone: Backbone, prompt: str, n: int) -> dict[str, Tensor]:
    """Return the arguments of a pipeline for n pictures of a prompt, in the precision of the UNet."""
    conds = [one.to(backbone.dtype).expand(n, -1, -1) for one in (backbone.condition([prompt]), backbone.null())]
    if not isinstance(backbone, TwoEncoderBackbone):
        return {"prompt_embeds": conds[0], "negative_prompt_embeds": conds[1]}
    (hidden, pooled), (null, null_pooled) = map(backbone.split, conds)
    pools = {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": null_pooled}
    return {"prompt_embeds": hidden, "negative_prompt_embeds": null, **pools}
