"""One overlay that is attached to a pipeline, with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robust_encoders.artifact.forms import adapter_of
from robust_encoders.artifact.manifest import Form, Manifest
from robust_encoders.overlays import adapters
from robust_encoders.overlays.adapters import Adapter
from robust_encoders.overlays.eraser import Eraser
from robust_encoders.overlays.facilitated_transport import GateTargets

PREFIXES: Mapping[str, str] = {"text_encoder": adapters.TEXT_PREFIX, "unet": adapters.UNET_PREFIX}


@dataclass(frozen=True, eq=False)
class AttachedOverlay:
    """One attached overlay, with its settings.

    Args:
        manifest: Manifest of the artifact.
        tensors: Tensors of the artifact.
        config: Configuration of the artifact.
        identity: Hash of tensors and configuration.
        label: Name of the overlay, for messages.
        scale: Factor of an adapter's strength.
        transport: Rule by which gates scale an adapter, see :class:`robust_encoders.overlays.adapters.Gates`.
        gate: Constant gate of a fused overlay; None for an overlay that is not fused.
        targets: Encoded prompts of an adapter, with which other prompts are compared; computed when it is attached.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    identity: str
    label: str
    scale: float = 1.0
    transport: adapters.Transport = adapters.DEFAULT_TRANSPORT
    gate: float | None = None
    targets: GateTargets | None = None

    @property
    def form(self) -> Form:
        """Form of the artifact."""
        return self.manifest.form

    @property
    def is_adapter(self) -> bool:
        """True for an adapter."""
        return self.form == "adapter"

    @property
    def live(self) -> bool:
        """True if the overlay acts by hooks, false if it lies in the weights: a delta, or a fused overlay."""
        return self.form != "delta" and self.gate is None

    @property
    def is_gated(self) -> bool:
        """True for an adapter that is not fused: its strength depends on the prompt."""
        return self.is_adapter and self.live

    @property
    def place(self) -> tuple[int, str]:
        """Place in the fixed order of overlays: deltas, adapters, projections, erasers; each sorted by hash."""
        return ("delta", "adapter", "projection", "eraser").index(self.form), self.identity

    def adapter(self) -> Adapter:
        """Return the adapter in the tensors."""
        return adapter_of(self.tensors, self.config)

    def eraser(self) -> Eraser:
        """Return the eraser in the tensors."""
        return Eraser(self.tensors)

    def components(self) -> tuple[str, ...]:
        """Return the names of the components that the overlay changes."""
        if self.form in ("delta", "eraser"):
            return ("unet",)
        if self.form == "projection":
            return ("text_encoder",) if self.live else ("unet",)
        return tuple(name for name, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in self.tensors))
