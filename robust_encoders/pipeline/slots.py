"""The slots of a pipeline that hold text encoders: which one an artifact fills, and which stay open to its concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.pipeline.offload import denoiser_of
from robust_encoders.pipeline.parts import text_encoders_of

FIRST, SECOND = "text_encoder", "text_encoder_2"
ReadOutput = Literal["last", "last but one", "pooled", "unknown"]
OUTPUTS: Mapping[ReadOutput, str] = {
    "last": "the last hidden state",
    "last but one": "the last hidden state but one",
    "pooled": "the pooled vector alone",
}


@dataclass(frozen=True)
class Slots:
    """The text encoders of a pipeline, as one artifact sees them.

    Args:
        component: Slot that the artifact changes.
        kinds: Mapping of all slots of text encoders, in order, to the class of what they hold; empty for an empty slot.
        covered: Other slots with a robust encoder that erases the same concept.
    """

    component: str
    kinds: Mapping[str, str]
    covered: tuple[str, ...] = ()

    @classmethod
    def of(cls, pipe: Any, component: str, concept: str) -> Slots:
        """Look at the slots of a pipeline; nothing is changed.

        Args:
            pipe: A diffusers pipeline.
            component: Slot that the artifact changes.
            concept: Name of the concept that the artifact erases; empty if it is not known.
        """
        parts = text_encoders_of(pipe)
        kinds = {name: "" if part is None else type(unwrapped(part)).__name__ for name, part in parts.items()}
        others = [name for name in kinds if name != component]
        covered = (name for name in others if concept and erased_in(parts[name]) == concept)
        return cls(component, kinds, tuple(covered))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all slots, in order, also of empty ones."""
        return tuple(self.kinds)

    @property
    def number(self) -> int:
        """Number of the artifact's slot, from 1; 0 if the pipeline does not have that slot."""
        return self.names.index(self.component) + 1 if self.component in self.kinds else 0

    @property
    def empty(self) -> tuple[str, ...]:
        """Other slots without an encoder; no prompt passes through them."""
        return tuple(name for name, kind in self.kinds.items() if not kind and name != self.component)

    @property
    def open(self) -> tuple[str, ...]:
        """Other slots whose encoders still know the concept."""
        closed = (self.component, *self.covered, *self.empty)
        return tuple(name for name in self.kinds if name not in closed)

    def __str__(self) -> str:
        """Return the slot as ``slot 1 of 2``."""
        return f"slot {self.number} of {len(self.kinds)}"

    def told(self) -> tuple[str, ...]:
        """Return one sentence for each slot of a pipeline with several; empty for a pipeline with one."""
        return tuple(self._told(name) for name in self.kinds) if len(self.kinds) > 1 else ()

    def _told(self, name: str) -> str:
        number, kind = self.names.index(name) + 1, self.kinds[name] or "no encoder"
        if name == self.component:
            state = "the slot of this artifact"
        elif name in self.empty:
            state = "empty, so that no prompt passes through it"
        elif name in self.covered:
            state = "closed: its robust encoder erases the same concept"
        else:
            state = "open: every prompt passes through it, and it still knows the concept"
        return f"slot {number}, {name} ({kind}): {state}"


def erased_in(module: Any) -> str:
    """Return the name of the concept that a robust encoder erases; empty for any other object.

    Args:
        module: Object in the slot of a text encoder.
    """
    carried = getattr(getattr(unwrapped(module), "config", None), "robust_encoders", None)
    return str(carried.get("concept", "")) if isinstance(carried, Mapping) else ""


def reading_of(pipe: Any) -> ReadOutput:
    """Return the output of its CLIP text encoders that a pipeline draws with, as far as its denoiser tells.

    SDXL and SD 3 read the last hidden state but one, and a pooled vector beside it. FLUX reads the pooled vector of its
    first text encoder alone. Stable Diffusion 1 and 2 read the last hidden state.

    Args:
        pipe: A diffusers pipeline.
    """
    denoiser: Any = denoiser_of(pipe)
    if denoiser is None:
        return "unknown"
    known: Mapping[str, ReadOutput] = {"SD3Transformer2DModel": "last but one", "FluxTransformer2DModel": "pooled"}
    kind = type(denoiser).__name__
    if kind in known:
        return known[kind]
    if is_sdxl(pipe):
        return "last but one"
    several = hasattr(pipe, SECOND) or "Transformer" in kind
    return "unknown" if several else "last"


def is_sdxl(pipe: Any) -> bool:
    """Return true if a pipeline draws with a UNet of SDXL, which reads two text encoders, or the second one alone."""
    denoiser: Any = denoiser_of(pipe)
    config: Any = getattr(denoiser, "config", None) or {}
    return hasattr(pipe, SECOND) and config.get("addition_embed_type") == "text_time"
