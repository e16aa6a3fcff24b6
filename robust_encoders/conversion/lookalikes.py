"""Files of weights that are no CLIP text encoder, recognised by the names of their tensors, for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Lookalike(NamedTuple):
    """A kind of file that users pass by mistake.

    Args:
        what: Description of the file, as a noun phrase; empty if the names do not tell.
        remedy: Advice for the user.
    """

    what: str
    remedy: str


_OF_PIPELINE = "pass the file of the pipeline's folder text_encoder"
_LORA = (
    re.compile(r"(^|.*[._])(lora_(down|up|A|B)|lora\.(down|up)|lora_linear_layer|hada_w1_a|lokr_w1)\b.*"),
    Lookalike("a LoRA", "merge it into its text encoder (`fuse_lora` of diffusers) and save that encoder"),
)
_KINDS = (
    _LORA,
    (
        re.compile(r".*\.(absmax|quant_map|nested_absmax|SCB|weight_scale|qweight|qzeros)|.*quant_state\..*"),
        Lookalike("quantised weights", "pass the weights in half or full precision"),
    ),
    (
        re.compile(r"(.*\.)?encoder\.block\.\d+\.layer\..*|shared\.weight"),
        Lookalike("a T5 text encoder", "this package erases concepts from CLIP text encoders only"),
    ),
    (
        re.compile(r"(.*\.)?(bert|roberta)\..*|(.*\.)?model\.layers\.\d+\..*|(.*\.)?encoder\.layer\.\d+\..*"),
        Lookalike("a language model that is no CLIP", "this package erases concepts from CLIP text encoders only"),
    ),
    (
        re.compile(r"controlnet_(cond_embedding|down_blocks)\..*"),
        Lookalike("a ControlNet", _OF_PIPELINE),
    ),
    (
        re.compile(r"(.*\.)?(down_blocks|mid_block|up_blocks)\..*attn2\..*|(model\.diffusion_model\.).*"),
        Lookalike("a UNet", _OF_PIPELINE),
    ),
    (
        re.compile(r"(encoder|decoder)\.(down|up|mid)(_block)?.*|first_stage_model\..*|quant_conv\..*"),
        Lookalike("a VAE", _OF_PIPELINE),
    ),
    (
        re.compile(r"<[^<>]+>|emb_params|string_to_param.*|clip_[lg]"),
        Lookalike("an embedding of a textual inversion", "load it by `pipe.load_textual_inversion` instead"),
    ),
    (
        re.compile(r"(.*\.)?(vision_model|visual)\..*"),
        Lookalike("the image part of a CLIP model", "pass the whole model, or its text part"),
    ),
)  # fmt: skip
_UNKNOWN = Lookalike("", "give a file with such an encoder")


def what_else(names: Iterable[str]) -> Lookalike:
    """Return what a file without a CLIP text encoder is, as far as its tensor names tell.

    Args:
        names: Names of the tensors in the file.
    """
    names = list(names)
    matching = (kind for pattern, kind in _KINDS if any(pattern.fullmatch(name[:200]) for name in names))
    return next(matching, _UNKNOWN)


def is_lora(names: Iterable[str]) -> bool:
    """Return true if a file holds a LoRA; it names the layers of the model that it changes, but is no such model.

    Args:
        names: Names of the tensors in the file.
    """
    return any(_LORA[0].fullmatch(name[:200]) for name in names)
