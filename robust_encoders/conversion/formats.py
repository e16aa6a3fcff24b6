"""The layouts in which other projects publish a CLIP text encoder, and their translation from and to our own layout.

A layout is a prefix before every tensor name and a naming scheme after it. It is recognised by the tensor names alone.
A file that matches two layouts is refused, because it holds two encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robust_encoders.clip.state_dict import PREFIX
from robust_encoders.conversion.lookalikes import is_lora, what_else
from robust_encoders.conversion.open_clip import from_open_clip, to_open_clip
from robust_encoders.errors import IntegrityError

Naming = Literal["nested", "flat", "open_clip"]
_STEMS: Mapping[Naming, tuple[str, ...]] = {
    "nested": (PREFIX,),
    "flat": ("embeddings.", "encoder.layers.", "final_layer_norm."),
    "open_clip": ("token_embedding.", "positional_embedding", "transformer.resblocks.", "ln_final."),
}
# Buffers and other parts of a CLIP model, which a pipeline's text encoder does not have.
_NO_PART = (
    "text_projection",
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "vision_model.",
    "visual.",
    "visual_projection.",
)
_ALIASES = {"embedding.": "embeddings.", "encoder.": "encoder.", "final_layer_norm.": "final_layer_norm."}


class Layout(NamedTuple):
    """The tensor names that one application uses for a text encoder.

    Args:
        name: Name of the layout, in words.
        prefix: Text before every tensor name.
        naming: Naming scheme after the prefix: transformers' nested or flat names, or open_clip's names.
        shared: True if the same file also holds other models, for example the UNet.
    """

    name: str
    prefix: str
    naming: Naming
    shared: bool = False

    def holds(self, name: str) -> bool:
        """Return true if a tensor of that name belongs to a text encoder in this layout."""
        return name.startswith(tuple(self.prefix + stem for stem in _STEMS[self.naming]))


TRANSFORMERS = Layout("transformers", "", "nested")
FLAT = Layout("transformers, flat", "", "flat")
AUTHORS = Layout("the AdvUnlearn trainer's .pt", "text_encoder.", "nested")
A1111 = Layout("A1111 single file", "cond_stage_model.transformer.", "nested", shared=True)
A1111_OLD = Layout("A1111 single file, old", "cond_stage_model.transformer.", "flat", shared=True)
A1111_SD2 = Layout("A1111 single file of SD 2", "cond_stage_model.model.", "open_clip", shared=True)
COMFYUI = Layout("ComfyUI", "clip_l.transformer.", "nested")
COMFYUI_SHORT = Layout("ComfyUI, short", "clip_l.", "nested")
COMFYUI_SINGLE = Layout("ComfyUI single file", "text_encoders.clip_l.transformer.", "nested", shared=True)
OPEN_CLIP = Layout("open_clip", "", "open_clip")
OPEN_CLIP_TOWER = Layout("open_clip, text tower apart", "text.", "open_clip")
SDXL_L = Layout("single file of SDXL, CLIP-L", "conditioner.embedders.0.transformer.", "nested", shared=True)
SDXL_G = Layout("single file of SDXL, OpenCLIP-G", "conditioner.embedders.1.model.", "open_clip", shared=True)
LAYOUTS = (
    TRANSFORMERS, FLAT, AUTHORS, A1111, A1111_OLD, A1111_SD2, COMFYUI, COMFYUI_SHORT, COMFYUI_SINGLE, OPEN_CLIP,
    OPEN_CLIP_TOWER, SDXL_L, SDXL_G,
)  # fmt: skip
# One tensor of every text encoder, by naming; text before it in a file is the prefix of all its names.
_MARKS: Mapping[Naming, str] = {
    "nested": PREFIX + "embeddings.token_embedding.weight",
    "flat": "embeddings.token_embedding.weight",
    "open_clip": "token_embedding.weight",
}


class Reading(NamedTuple):
    """A text encoder that was read from a file.

    Args:
        layout: Layout of the file.
        tensors: Mapping of ``text_model.*`` names to tensors; a name that no text encoder has stays unchanged.
        dropped: Names of tensors that belong to other parts of a CLIP model and were left out.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def read(tensors: Mapping[str, Tensor]) -> Reading:
    """Find the text encoder among the tensors of a file.

    The result may be incomplete; :func:`robust_encoders.clip.text_model.require_fit` checks that.

    Args:
        tensors: Mapping of names to tensors in the layout of the file.

    Raises:
        IntegrityError: If no layout or more than one matches, or if two names of one tensor hold different values; the
            message names them.
    """
    layout = detect(tensors)
    own = {name: tensor for name, tensor in tensors.items() if not layout.shared or name.startswith(layout.prefix)}
    dropped = tuple(sorted(name for name in own if _is_no_part(name.removeprefix(layout.prefix))))
    own = {name: tensor for name, tensor in own.items() if name not in dropped}
    if layout is AUTHORS:
        own = _without_aliases(own)
    named = {name.removeprefix(layout.prefix): tensor for name, tensor in own.items()}
    if layout.naming == "nested":
        return Reading(layout, named, dropped)
    flat = from_open_clip(named) if layout.naming == "open_clip" else named
    known = {name: PREFIX + name if FLAT.holds(name) else name for name in flat}
    return Reading(layout, {known[name]: tensor for name, tensor in flat.items()}, dropped)


def detect(names: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a file.

    Args:
        names: Mapping of names to tensors; only the names are used.

    Raises:
        IntegrityError: If the file holds no text encoder, or more than one.
    """
    found = [] if is_lora(names) else [layout for layout in LAYOUTS if any(map(layout.holds, names))]
    if AUTHORS in found and FLAT in found:
        found.remove(FLAT)  # the trainer writes every tensor a second time under a flat name
    found = found or _wrapped(names)
    if len(found) == 1:
        return found[0]
    if found:
        raise IntegrityError(
            f"expected one text encoder in the file, found {len(found)}: {'; '.join(layout.name for layout in found)}; "
            "remove all but one from it"
        )
    shown = ", ".join(sorted(name[:80] for name in names)[:4]) or "no tensors"
    known = "; ".join(layout.name for layout in LAYOUTS)
    other = what_else(names)
    raise IntegrityError(
        f"expected a CLIP text encoder in one of these layouts: {known}; found "
        f"{shown}{', ...' * (len(names) > 4)}{f': {other.what}' * bool(other.what)}; {other.remedy}"
    )


def _wrapped(names: Mapping[str, Tensor]) -> list[Layout]:
    """Return the layouts of text encoders that are attributes of another module, whose names all names begin with."""
    for naming, mark in _MARKS.items():
        # The naming comes first that the others are a part of: "text_model.embeddings." holds "embeddings.".
        if prefixes := sorted(name.removesuffix(mark) for name in names if name.endswith("." + mark)):
            return [Layout(f"names after {prefix[:80]!r}", prefix, naming) for prefix in prefixes]
    return []


def _is_no_part(name: str) -> bool:
    return name.endswith("position_ids") or name.startswith(_NO_PART)


def _without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without their second names; tensors under both names must be equal bit for bit."""
    targets = {name: target for name in tensors if (target := _alias_of(name)) is not None}
    wrong = sorted(
        n for n, target in targets.items() if target not in tensors or not _same(tensors[n], tensors[target])
    )
    if wrong:
        raise IntegrityError(
            f"expected every tensor under two names with equal values, found {len(wrong)} that differ or stand alone: "
            + ", ".join(f"{name} (of {targets[name]})" for name in wrong)[:4000]
            + "; the file was edited or cut off: save it again from the trainer"
        )
    return {name: tensor for name, tensor in tensors.items() if name not in targets}


def _alias_of(name: str) -> str | None:
    for alias, stem in _ALIASES.items():
        if name.startswith(alias):
            return f"{AUTHORS.prefix}{PREFIX}{stem}{name.removeprefix(alias)}"
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    # The bytes are compared, because a NaN does not equal itself, and 0.0 equals -0.0.
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def write(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return a text encoder under another application's names; :func:`read` restores it bit for bit.

    Args:
        tensors: Mapping of ``text_model.*`` names to the tensors of a whole text encoder.
        layout: Target layout, one of ``LAYOUTS``.
    """
    if layout.naming == "nested":
        return {layout.prefix + name: tensor for name, tensor in tensors.items()}
    flat = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    named = to_open_clip(flat) if layout.naming == "open_clip" else flat
    return {layout.prefix + name: tensor for name, tensor in named.items()}
