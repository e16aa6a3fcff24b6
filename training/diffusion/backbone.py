"""One interface to the parts of a Stable Diffusion pipeline that erasers and attacks use."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robust_encoders.utils.text_lists import require_texts

from .cross_attention import GramMatrix
from .loss_scaling import with_scaled_gradients
from .noise_schedule import ddim_of

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
PREDICTION_TYPES = ("epsilon", "v_prediction")


@cache
def has_bf16() -> bool:
    """Return True if this processor has instructions for bfloat16; without them, bfloat16 is about 20 times slower.

    The answer is known only for x86 processors and for versions of PyTorch that report the capabilities of a processor.
    Otherwise the function returns False, so that float32 is used.
    """
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def computes_bf16_in_fp32(device: torch.device) -> bool:
    """Return True if ``bf16`` is computed in float32 on ``device``: a CPU without instructions for bfloat16."""
    return device.type == "cpu" and not has_bf16()


def ids_of(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return the token ids (B, L) of prompts, padded and truncated as in a pipeline.

    Args:
        tokenizer: A CLIP tokenizer, whose longest text has L tokens.
        prompts: Texts of the B prompts.
    """
    length = tokenizer.model_max_length
    ids: Tensor = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


class RolloutStep(NamedTuple):
    """One step of a DDIM run: its latents, the predictions of the model there, and the next latents."""

    latents: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    pred_null: Tensor | None  # (B, C, h, w), None without guidance
    pred_cond: Tensor  # (B, C, h, w)
    next: Tensor  # (B, C, h, w)


class Backbone:
    """Tokenizer, text encoder, UNet and noise schedule of a pipeline that predicts noise (eps) or velocity (v).

    Predictions stay in the model's own space, eps or v. Guidance is linear in both spaces. For a v model, a mean
    squared error in eps would weigh the timesteps differently from its training.

    Args:
        tokenizer: A CLIP tokenizer.
        text_encoder: A CLIP text model whose last hidden state conditions the UNet; for SDXL see
            ``TwoEncoderBackbone``.
        unet: A ``UNet2DConditionModel``.
        scheduler: Scheduler of diffusers with betas. Its noise schedule and its grid of timesteps become those of a
            DDIM scheduler, see :func:`ddim_of`.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` or ``fp16`` by autocast. The text encoder always keeps
            its own dtype. ``fp16`` scales gradients while they pass through the UNet. On a CPU without instructions for
            bfloat16, ``bf16`` computes in float32 if the weights are in float32, which is more exact and much faster
            there; see ``computes_in``.

    Attributes:
        component: Slot of the text encoder in the pipeline.
        own_scheduler: The pipeline's own scheduler.
        scheduler: DDIM scheduler of all runs.
        alphas_cumprod: Cumulative products (T,) of the noise schedule.
        latent_shape: Shape (C, h, w) of the latents that the UNet was trained on.
        unet_calls: Number of UNet forward passes on one latent so far; callers add their backward passes to
            activations.

    Raises:
        ValueError: The scheduler has no betas, predicts neither noise nor velocity, or the widths of UNet and text
            encoder differ.
    """

    component: str = "text_encoder"

    def __init__(
        self, tokenizer: Any, text_encoder: nn.Module, unet: nn.Module, scheduler: Any, *, precision: Precision = "fp32"
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder: Any = text_encoder
        self.unet: Any = unet
        self.own_scheduler: Any = scheduler
        self.scheduler: Any = ddim_of(scheduler)
        self.alphas_cumprod: Tensor = self.scheduler.alphas_cumprod
        self.prediction_type: str = self.scheduler.config.prediction_type
        self.precision: Precision = precision
        self.unet_calls = 0
        self.agrees = False
        self._refuse_unfit()

    def _refuse_unfit(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"expected a prediction type in {PREDICTION_TYPES}, found {self.prediction_type!r}: "
                "set it in the scheduler's configuration"
            )
        self._refuse_widths()

    def _refuse_widths(self) -> None:
        width, taken = self.text_encoder.config.hidden_size, self.unet.config.cross_attention_dim
        if width != taken:
            raise ValueError(
                f"expected a text encoder of width {taken} (the UNet's cross_attention_dim), found {width}: "
                "use the text encoder that this UNet was trained with"
            )

    @classmethod
    def from_pipeline(cls, pipe: Any, *, precision: Precision = "fp32") -> Backbone:
        """Return a backbone that shares the modules of a diffusers pipeline and leaves them unchanged."""
        return cls(pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.scheduler, precision=precision)

    def clone(self) -> Backbone:
        """Return a backbone with a deep copy of the text encoder, the same UNet, and its counter of UNet calls at 0."""
        return self.sharing(copy.deepcopy(self.text_encoder))

    def sharing(
        self,
        text_encoder: nn.Module | None = None,
        *,
        unet: nn.Module | None = None,
        precision: Precision | None = None,
    ) -> Backbone:
        """Return a backbone that shares the modules, with its counter of UNet calls at 0.

        Args:
            text_encoder: Text encoder to use instead; None shares the present one.
            unet: UNet to use instead; None shares the present one.
            precision: Precision of the UNet to use instead; None keeps the present one.
        """
        encoder = self.text_encoder if text_encoder is None else text_encoder
        model = self.unet if unet is None else unet
        return Backbone(self.tokenizer, encoder, model, self.own_scheduler, precision=precision or self.precision)

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
        device: torch.device = next(iter(self.unet.parameters())).device
        return device

    @property
    def computes_in(self) -> Precision:
        """Actual precision of the UNet: ``precision``; ``fp32`` for float32 weights in ``bf16`` on a CPU without it."""
        if self.precision != "bf16" or not computes_bf16_in_fp32(self.device):
            return self.precision
        # A UNet in training may have float32 parameters among frozen ones in bfloat16, which only autocast joins.
        whole = all(p.dtype == torch.float32 for p in self.unet.parameters() if p.is_floating_point())
        return "fp32" if whole else "bf16"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the UNet's parameters."""
        dtype: torch.dtype = next(iter(self.unet.parameters())).dtype
        return dtype

    @property
    def max_length(self) -> int:
        """Number L of token positions, begin and end tokens included."""
        return int(self.tokenizer.model_max_length)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latents that the UNet was trained on."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.unet.config.in_channels), int(height), int(width)

    @property
    def beside(self) -> tuple[nn.Module, ...]:
        """Text encoders beside the one that methods change; none in Stable Diffusion 1 and 2."""
        return ()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Put text encoders and UNet into eval mode without parameter gradients; restore every flag afterwards."""
        parts = (self.text_encoder, *self.beside, self.unet)
        modes = [(m, m.training) for part in parts for m in part.modules()]
        flags = [(p, p.requires_grad) for part in parts for p in part.parameters()]
        try:
            for part in parts:
                part.eval().requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return the token ids (B, L) of prompts, padded and truncated as in the pipeline.

        Raises:
            TextListError: If the prompts are one string, whose letters would count as prompts.
        """
        require_texts("prompts", prompts)
        return ids_of(self.tokenizer, prompts).to(self.text_encoder.device)

    def fits(self, text: str) -> bool:
        """Return True if the tokenizer cuts nothing off a text."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids) <= self.max_length

    def embed(self, ids: Tensor) -> Tensor:
        """Return the token embeddings (B, L, D) of ids (B, L), without position embeddings."""
        embeds: Tensor = self.text_encoder.get_input_embeddings()(ids)
        return embeds

    def encode(self, embeds: Tensor, ids: Tensor, given: Tensor | None = None) -> Tensor:
        """Return the conditioning (B, L, D) of token embeddings (B, L, D).

        The result is differentiable in the embeddings and in the weights of the text encoder. A forward hook inserts
        the embeddings, so the forward method of the encoder runs unchanged. The encoder uses ``ids`` (B, L) only to
        find the end of the text.

        Args:
            embeds: Token embeddings (B, L, D).
            ids: Token ids (B, L).
            given: Part of the conditioning that other text encoders give, see ``given``; None without such encoders.
        """
        if embeds.shape[:2] != ids.shape:
            raise ValueError(f"expected ids of shape {tuple(embeds.shape[:2])}, found {tuple(ids.shape)}")

        def replace(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return embeds.to(output.dtype)

        handle = self.text_encoder.get_input_embeddings().register_forward_hook(replace)
        try:
            return self._encoded(ids, given)
        finally:
            handle.remove()

    def _encoded(self, ids: Tensor, given: Tensor | None) -> Tensor:
        hidden: Tensor = self.text_encoder(input_ids=ids)[0]
        return hidden

    def given(self, prompts: Sequence[str]) -> Tensor | None:
        """Return the part of the prompts' conditioning that other text encoders give; None without such encoders."""
        return None

    def condition(self, prompts: Sequence[str]) -> Tensor:
        """Return the conditioning (B, L, D) of prompts, computed as in the pipeline."""
        return self._encoded(self.tokenize(prompts), self.given(prompts))

    def null(self) -> Tensor:
        """Return the conditioning (1, L, D) that the pipeline guides away from if there is no negative prompt."""
        return self.condition([""])

    def predict(self, latents: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return the UNet's prediction (B, C, h, w) at latents (B, C, h, w), timesteps (B,), conditioning (B, L, D)."""
        self.unet_calls += latents.shape[0]

        def run(latents: Tensor, cond: Tensor) -> Tensor:
            low = AUTOCAST.get(self.computes_in)
            with torch.autocast(self.device.type, dtype=low, enabled=low is not None):
                out: Tensor = self.unet(latents.to(self.dtype), t, **self._inputs(cond.to(self.dtype))).sample
            return out if self.precision == "fp32" else out.float()

        return with_scaled_gradients(run, latents, cond) if self.precision == "fp16" else run(latents, cond)

    def _inputs(self, cond: Tensor) -> dict[str, Any]:
        """Return a conditioning as the arguments of the UNet."""
        return {"encoder_hidden_states": cond}

    def guided(self, latents: Tensor, t: Tensor, cond: Tensor, null: Tensor, scale: float) -> Tensor:
        """Return the prediction (B, C, h, w) with classifier-free guidance, ``null + scale * (cond - null)``."""
        pred_null, pred_cond = self.both(latents, t, cond, null)
        return pred_null + scale * (pred_cond - pred_null)

    def both(self, latents: Tensor, t: Tensor, cond: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions (B, C, h, w) without and with the prompt, from one UNet call."""
        joint = torch.cat([null.expand_as(cond), cond])
        pred_null, pred_cond = self.predict(torch.cat([latents, latents]), torch.cat([t, t]), joint).chunk(2)
        return pred_null, pred_cond

    def _levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod.to(like.device)[t].view(-1, 1, 1, 1).to(like.dtype)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``sqrt(a) x0 + sqrt(1 - a) noise`` (B, C, h, w) at timesteps (B,)."""
        signal, sigma = self._levels(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the training target of the UNet: the noise, or the velocity ``sqrt(a) noise - sqrt(1 - a) x0``."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._levels(t, x0)
        return signal * noise - sigma * x0

    def timesteps(self, steps: int) -> Tensor:
        """Return the timesteps (steps,) of a DDIM run, noisiest first."""
        self.scheduler.set_timesteps(steps)
        grid: Tensor = self.scheduler.timesteps
        return grid.to(self.device)

    def ddim_step(
        self, pred_null: Tensor | None, pred_cond: Tensor, t: Tensor, latents: Tensor, guidance: float
    ) -> Tensor:
        """Return the latents (B, C, h, w) after one DDIM step from timestep t (), by the guided prediction.

        Args:
            pred_null: Prediction (B, C, h, w) for the empty prompt; None steps without guidance.
            pred_cond: Prediction (B, C, h, w) for the prompt.
            t: Timestep () of the latents, on the grid.
            latents: Latents (B, C, h, w) at timestep t.
            guidance: Classifier-free guidance scale.
        """
        joint = pred_cond if pred_null is None else pred_null + guidance * (pred_cond - pred_null)
        following: Tensor = self.scheduler.step(joint, t, latents, eta=0.0, return_dict=False)[0]
        return following

    def rollout(
        self, cond: Tensor, null: Tensor | None, *, noise: Tensor, steps: int, guidance: float
    ) -> Iterator[RolloutStep]:
        """Run DDIM (Song et al. 2021, Eq. 12, eta 0) from noise (B, C, h, w) and yield every step.

        A caller may overwrite ``next`` of a step in place before the following step.

        Args:
            cond: Conditioning (B, L, D).
            null: Conditioning of the empty prompt, (1, L, D) or (B, L, D); None runs without guidance.
            noise: Initial latents (B, C, h, w).
            steps: Number of DDIM steps.
            guidance: Classifier-free guidance scale.
        """
        latents = noise
        for t in self.timesteps(steps):
            batch_t = t.expand(latents.shape[0])
            if null is None:
                pred_null, pred_cond = None, self.predict(latents, batch_t, cond)
            else:
                pred_null, pred_cond = self.both(latents, batch_t, cond, null)
            following = self.ddim_step(pred_null, pred_cond, t, latents, guidance)
            yield RolloutStep(latents, batch_t, pred_null, pred_cond, following)
            latents = following

    @torch.no_grad()
    def sample(
        self,
        cond: Tensor,
        *,
        noise: Tensor,
        steps: int,
        guidance: float,
        keep: bool = False,
        null: Tensor | None = None,
    ) -> Tensor:
        """Draw latents by DDIM, in one batch.

        Args:
            cond: Conditioning (B, L, D).
            noise: Initial latents (B, C, h, w).
            steps: Number of DDIM steps.
            guidance: Classifier-free guidance scale; 1 runs the conditional model alone.
            keep: True to return the whole trajectory instead of the final latents.
            null: Conditioning of the empty prompt; by default what ``null`` returns.

        Returns:
            Final latents (B, C, h, w), or with ``keep`` the trajectory (steps + 1, B, C, h, w), noise first.
        """
        if guidance != 1 and null is None:
            null = self.null()
        run = self.rollout(cond, null if guidance != 1 else None, noise=noise, steps=steps, guidance=guidance)
        trajectory = [noise]
        for step in run:
            trajectory = [*trajectory, step.next] if keep else [step.next]
        return torch.stack(trajectory) if keep else trajectory[0]

    @torch.no_grad()
    def text_gram(self) -> Tensor:
        """Return the matrix G (D, D) in float64, the sum of ``W^T W`` over all cross-attention K and V matrices W.

        Text reaches the UNet only through these matrices. So ``(a - b)^T G (a - b)`` is the squared distance between
        two conditionings as the UNet sees it. UCE (Gandikota et al. 2024) edits the same matrices.
        """
        return GramMatrix.of(self.unet).gram.to(self.device)
