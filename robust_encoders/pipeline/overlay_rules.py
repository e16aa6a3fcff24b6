"""Rules on overlays of one pipeline: which may be attached together, and which may be fused."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robust_encoders.errors import AlreadyAttachedError, ManifestError
from robust_encoders.pipeline.attached_overlay import AttachedOverlay


def require_finite(scale: float) -> None:
    """Check that the factor of an adapter's strength is a finite number.

    Raises:
        ValueError: If it is not.
    """
    if not math.isfinite(scale):
        raise ValueError(f"expected a finite scale, found {scale}")


def require_same(there: AttachedOverlay, asked: AttachedOverlay) -> None:
    """Check that an overlay that is already attached has the settings with which it is attached again.

    Args:
        there: Overlay on the pipeline.
        asked: The same overlay, with the new settings.

    Raises:
        AlreadyAttachedError: If scale or transport differ.
    """
    if (there.scale, there.transport) != (asked.scale, asked.transport):
        raise AlreadyAttachedError(
            f"expected {there.label} not to be attached, found it attached with scale {there.scale:g} and transport "
            f"{there.transport!r}; change its scale by set_scale, or detach it first"
        )


def require_room(overlays: Sequence[AttachedOverlay], asked: AttachedOverlay) -> None:
    """Check that the overlays of a pipeline leave room for another one.

    Args:
        overlays: Overlays on the pipeline.
        asked: Overlay that is to be attached.

    Raises:
        AlreadyAttachedError: If both it and one of them are deltas of one component, or adapters whose transports or
            ranks do not go together.
    """
    deltas = [one for one in overlays if one.form == "delta" and one.manifest.component == asked.manifest.component]
    if asked.form == "delta" and deltas:
        raise AlreadyAttachedError(
            f"expected no delta of the {asked.manifest.component}, found {deltas[0].label}, whose absolute values "
            f"{asked.label} would overwrite; detach it first, or pass replace=True, which removes every other overlay"
        )
    if asked.is_adapter:
        _require_one_transport([one for one in overlays if one.is_adapter], asked)


def _require_one_transport(adapters: Sequence[AttachedOverlay], asked: AttachedOverlay) -> None:
    if odd := [overlay.label for overlay in adapters if overlay.transport != asked.transport]:
        raise AlreadyAttachedError(
            f"expected every adapter of a pipeline to have transport {asked.transport!r}, found another transport for "
            f"{', '.join(odd)}; detach them first"
        )
    ranks = {overlay.config["rank"] for overlay in (*adapters, asked)}
    if asked.transport == "official" and len(ranks) > 1:
        raise AlreadyAttachedError(
            f"expected adapters of one rank under transport 'official', which adds up their vectors, found ranks "
            f"{sorted(ranks)}; use transport 'paper'"
        )


def require_fusible(overlays: Sequence[AttachedOverlay], overlay: AttachedOverlay, gate: float) -> None:
    """Check that an attached overlay can be written into weights.

    Args:
        overlays: All overlays on the pipeline.
        overlay: The one that is to be fused.
        gate: Constant gate of an adapter.

    Raises:
        ManifestError: If it is an eraser, which is not linear.
        AlreadyAttachedError: If it is a projection and adapters that are not fused are attached, or if it is an adapter
            with transport ``official``.
        ValueError: If the gate is outside [0, 1].
    """
    if overlay.form == "eraser":
        raise ManifestError(
            f"expected an adapter or a projection, which can be fused, found form 'eraser' of {overlay.label}: its "
            "GELU cannot be written into linear weights; detach it before you save the pipeline, save it by its own "
            "save_pretrained, and attach it again after loading"
        )
    if not 0 <= gate <= 1:
        raise ValueError(f"expected a gate in [0, 1], found {gate}")
    if overlay.is_adapter and overlay.transport == "official":
        raise AlreadyAttachedError(
            f"expected {overlay.label} with transport 'paper', found 'official': its adapters depend on each other "
            "and cannot be fused one by one; detach it and attach it again with transport='paper'"
        )
    live = [other.label for other in overlays if other.is_gated]
    if overlay.form == "projection" and live:
        raise AlreadyAttachedError(
            f"expected all adapters fused before a projection is fused, found {', '.join(live)} not fused: their "
            "input would no longer be projected; fuse or detach them first"
        )
