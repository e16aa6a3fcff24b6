"""SDXL behind the interface of a backbone: one of its two text encoders may change, the other one stays frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from robust_encoders.pipeline.slots import FIRST, SECOND, is_sdxl
from robust_encoders.utils.text_lists import require_texts

from .backbone import Backbone, Precision, ids_of

_NUMBERS = 6  # height and width of the original and of the target, and two of the crop


class Slot(NamedTuple):
    """One of the two text encoders.

    Args:
        tokenizer: Its tokenizer.
        text_encoder: A ``CLIPTextModel`` in the first slot, a ``CLIPTextModelWithProjection`` in the second one.
    """

    tokenizer: Any
    text_encoder: Any

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.text_encoder.config.hidden_size)


class Drawn(NamedTuple):
    """How the pipeline draws without further arguments.

    Args:
        size: Height and width of a picture in pixels, which the UNet is told, too.
        zero_null: True if zeros take the place of an empty negative prompt, as in SDXL's base.
    """

    size: tuple[int, int]
    zero_null: bool


class TwoEncoderBackbone(Backbone):
    """Two text encoders, UNet and noise schedule of SDXL (Podell et al., ICLR 2024, arXiv 2307.01952).

    The UNet reads the last hidden state but one of both text encoders side by side, the pooled vector of the second
    one, and six numbers on the size of the picture. A conditioning (B, L + 1, D) holds the hidden states in its first L
    rows, with D the sum of both widths. Its last row begins with the pooled vector, and the rest of it is zero. So it
    is one tensor, as that of a base with one text encoder.

    Token embeddings and ids belong to the text encoder of ``component``, which methods change. The other one reads the
    plain prompt.

    Args:
        slots: First and second text encoder.
        unet: A ``UNet2DConditionModel`` with SDXL's additional embedding.
        scheduler: Scheduler of diffusers with betas.
        component: Slot of the text encoder that methods change.
        drawn: Size of the pictures, and what stands for the empty prompt.
        precision: Precision of the UNet, see ``Backbone``.

    Raises:
        ValueError: The scheduler has no betas, predicts neither noise nor velocity, or the widths of UNet and text
            encoders differ.
    """

    def __init__(
        self,
        slots: tuple[Slot, Slot],
        unet: nn.Module,
        scheduler: Any,
        *,
        component: str,
        drawn: Drawn,
        precision: Precision = "fp32",
    ) -> None:
        self.slots, self.component, self.drawn = slots, component, drawn
        own = slots[component == SECOND]
        super().__init__(own.tokenizer, own.text_encoder, unet, scheduler, precision=precision)

    def _refuse_widths(self) -> None:
        config = self.unet.config
        taken = config.cross_attention_dim, config.projection_class_embeddings_input_dim
        first, second = (slot.width for slot in self.slots)
        pooled = self.slots[1].text_encoder.config.projection_dim
        if (first + second, pooled + _NUMBERS * config.addition_time_embed_dim) != taken:
            raise ValueError(
                f"expected text encoders for a UNet that takes {taken[0]} and {taken[1]} numbers, found widths {first} "
                f"and {second} and a pooled vector of {pooled}: use the text encoders that this UNet was trained with"
            )

    @classmethod
    def of(cls, pipe: Any, component: str, *, precision: Precision = "fp32") -> TwoEncoderBackbone:
        """Return a backbone that shares the modules of a pipeline of SDXL and leaves them unchanged.

        Args:
            pipe: Pipeline of SDXL with both text encoders.
            component: Slot of the text encoder that methods change.
            precision: Precision of the UNet.
        """
        slots = Slot(pipe.tokenizer, pipe.text_encoder), Slot(pipe.tokenizer_2, pipe.text_encoder_2)
        side = pipe.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        factor = pipe.vae_scale_factor
        drawn = Drawn((height * factor, width * factor), bool(pipe.config.force_zeros_for_empty_prompt))
        return cls(slots, pipe.unet, pipe.scheduler, component=component, drawn=drawn, precision=precision)

    def sharing(
        self,
        text_encoder: nn.Module | None = None,
        *,
        unet: nn.Module | None = None,
        precision: Precision | None = None,
    ) -> TwoEncoderBackbone:
        """Return a backbone that shares the modules, see ``Backbone.sharing``.

        Args:
            text_encoder: Text encoder to use in the slot that methods change; None shares the present one.
            unet: UNet to use instead; None shares the present one.
            precision: Precision of the UNet to use instead; None keeps the present one.
        """
        first, second = self.slots
        if text_encoder is not None:
            own = Slot(self.tokenizer, text_encoder)
            first, second = (first, own) if self.component == SECOND else (own, second)
        return TwoEncoderBackbone(
            (first, second),
            self.unet if unet is None else unet,
            self.own_scheduler,
            component=self.component,
            drawn=self.drawn,
            precision=precision or self.precision,
        )

    @property
    def other(self) -> Slot:
        """The slot that stays as it is."""
        return self.slots[self.component != SECOND]

    @property
    def beside(self) -> tuple[nn.Module, ...]:
        """The text encoder of the other slot."""
        return (self.other.text_encoder,)

    def reads(self, name: str) -> bool:
        """Return True if a parameter of the text encoder that methods change has a part in the conditioning.

        The last layer and the final norm act on the pooled vector alone, which the second text encoder gives.

        Args:
            name: Name of the parameter.
        """
        last = self.text_encoder.config.num_hidden_layers - 1
        return self.component == SECOND or not (f"encoder.layers.{last}." in name or "final_layer_norm." in name)

    def given(self, prompts: Sequence[str]) -> Tensor:
        """Return the part of a conditioning (B, L + 1, D) that the other text encoder gives for prompts, else zeros."""
        require_texts("prompts", prompts)
        ids = ids_of(self.other.tokenizer, prompts).to(self.other.text_encoder.device)
        with torch.no_grad():
            return self._placed(self.other.text_encoder, ids, second=self.component != SECOND)

    def _encoded(self, ids: Tensor, given: Tensor | None) -> Tensor:
        if given is None:
            raise ValueError(
                "expected the part of the conditioning that the other text encoder gives, found none: pass "
                "backbone.given(prompts)"
            )
        return given + self._placed(self.text_encoder, ids, second=self.component == SECOND)

    def _placed(self, text_encoder: Any, ids: Tensor, *, second: bool) -> Tensor:
        """Return the outputs of one text encoder at their places in a conditioning (B, L + 1, D), zeros elsewhere."""
        found = text_encoder(input_ids=ids, output_hidden_states=True)
        hidden, left = found.hidden_states[-2], self.slots[0].width if second else 0
        width = sum(slot.width for slot in self.slots)
        placed = pad(hidden, (left, width - left - hidden.shape[2], 0, 1))
        if not second:
            return placed
        pooled = found.text_embeds  # (B, P)
        return placed + pad(pooled[:, None], (0, width - pooled.shape[1], hidden.shape[1], 0))

    def null(self) -> Tensor:
        """Return the conditioning (1, L + 1, D) without a negative prompt: zeros, or that of the empty prompt."""
        empty = self.condition([""])
        return torch.zeros_like(empty) if self.drawn.zero_null else empty

    def _inputs(self, cond: Tensor) -> dict[str, Any]:
        """Return a conditioning as the arguments of the UNet, with the size of the picture."""
        hidden, pooled = self.split(cond)
        # Original size, no crop, and target size.
        numbers = torch.tensor([[*self.drawn.size, 0, 0, *self.drawn.size]], dtype=cond.dtype, device=cond.device)
        added = {"text_embeds": pooled, "time_ids": numbers.expand(len(cond), -1)}
        return {"encoder_hidden_states": hidden, "added_cond_kwargs": added}

    def split(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, L, D) and pooled vectors (B, P) of a conditioning (B, L + 1, D)."""
        return cond[:, :-1], cond[:, -1, : self.slots[1].text_encoder.config.projection_dim]


def backbone_of(pipe: Any, component: str = FIRST, *, precision: Precision = "fp32") -> Backbone:
    """Return the backbone of a pipeline with one or two text encoders.

    Args:
        pipe: Pipeline of Stable Diffusion 1 or 2, or of SDXL.
        component: Component that a method changes.
        precision: Precision of the UNet.

    Raises:
        ValueError: The component is a second text encoder, and the pipeline has none.
    """
    if is_sdxl(pipe) and getattr(pipe, SECOND) is not None:
        return TwoEncoderBackbone.of(pipe, component if component == SECOND else FIRST, precision=precision)
    if component == SECOND:
        raise ValueError(
            f"expected a pipeline with a text_encoder_2, as SDXL has, found a {type(pipe).__name__}: choose component "
            "'text_encoder', or another base"
        )
    return Backbone.from_pipeline(pipe, precision=precision)
