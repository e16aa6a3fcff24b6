"""Overlays: adapters and projections, erasers of kilobytes that lie over a pipeline and replace nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from typing import Any, NoReturn

from torch import Tensor

from robust_encoders.artifact.forms import adapter_of, require_projection
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility.overlay import OverlayContent, check
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.errors import AlreadyAttachedError, CompatibilityWarning, ManifestError, StaleAttachmentError
from robust_encoders.loaded import LoadedArtifact, Pipeline
from robust_encoders.overlays.adapters import Transport
from robust_encoders.pipeline.composition import AttachedOverlay, compose, composition_of

logger = logging.getLogger(__name__)


class Overlay(LoadedArtifact, forms=("adapter", "projection"), expected="an adapter or a projection"):
    """An adapter (SPM) or a projection (UCE, RECE) in memory.

    Any number of them lie over one pipeline, with or without a whole encoder, in an order that is fixed (see
    :mod:`robust_encoders.pipeline.composition`). Each can be detached by itself, bit for bit.

    Args:
        manifest: Origin and facts of the overlay.
        tensors: The release's keys of an adapter; ``projection`` (D, D) of a projection.
        config: ``prompts``, ``rank`` and ``alpha`` of an adapter.

    Raises:
        ManifestError: If the manifest is of another form.
        IntegrityError: If the tensors are not of that form.
    """

    @staticmethod
    def _require_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        if manifest.form == "projection":
            require_projection(tensors)
        else:
            adapter_of(tensors, config)

    @staticmethod
    def _configured(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(config)

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter; otherwise it is a projection."""
        return self.manifest.form == "adapter"

    @property
    def identity(self) -> str:
        """What makes it this one: its tensors, and of an adapter the prompts that open it."""
        text = json.dumps([self.content_sha256, dict(self.config)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _refuse(self, expected: str, remedy: str) -> NoReturn:
        raise ManifestError(f"expected {expected}, found form {self.manifest.form!r} of {self.label}; {remedy}")

    def check(self, pipe: Any, *, allow_partial: bool = False) -> CompatReport:
        """Ask whether it fits a pipeline, and change nothing; see :meth:`LoadedArtifact.check`."""
        content = OverlayContent(self.manifest, self.tensors, self.config)
        return check(pipe, content, allow_partial=allow_partial)

    def attach(
        self,
        pipe: Pipeline,
        *,
        allow_partial: bool = False,
        replace: bool = False,
        scale: float = 1.0,
        transport: Transport = "paper",
    ) -> Pipeline:
        """Lay it over a pipeline; all or nothing.

        Its components are exchanged for copies that share their weights, so other pipelines with the same components
        stay as they are. Attaching what is attached already changes nothing.

        Args:
            pipe: A Stable Diffusion pipeline.
            allow_partial: Accept, with a warning, that other text encoders of the pipeline stay as they are.
            replace: Take the place of every other adapter and projection.
            scale: Factor of an adapter's strength.
            transport: Rule by which gates scale an adapter: ``paper`` adds up gate times U D x, ``official`` scales
                every tensor by the gate, as the released code does, so that one adapter is scaled by the gate squared
                and several have cross terms. All adapters of a pipeline share it.

        Returns:
            The same pipeline.

        Raises:
            IncompatibleError: Naming every reason why it does not fit.
            AlreadyAttachedError: If it is attached with another scale or transport, or others have another transport.
            StaleAttachmentError: If a component was replaced, or something loaded into it, since others were attached.
        """
        self._require_unchanged()
        before, overlay = composition_of(pipe).overlays, self._as_attached(scale, transport)
        if (there := composition_of(pipe).find(self.identity)) is not None and (len(before) == 1 or not replace):
            _require_same(there, overlay)
            return pipe
        if replace:
            compose(pipe, ())
        try:
            self._lay(pipe, overlay, allow_partial=allow_partial)
        except BaseException:
            if replace:
                compose(pipe, before)
            raise
        return pipe

    def _lay(self, pipe: Any, overlay: AttachedOverlay, *, allow_partial: bool) -> None:
        overlays = composition_of(pipe).overlays
        _require_one_transport(overlays, overlay)
        report = self.check(pipe, allow_partial=allow_partial)
        report.raise_if_incompatible()
        if report.warnings:
            warnings.warn(report.explain(), CompatibilityWarning, stacklevel=3)
        compose(pipe, [*overlays, overlay])
        logger.info("attached %s", self.label)

    def _as_attached(self, scale: float, transport: Transport) -> AttachedOverlay:
        if transport not in ("paper", "official"):
            raise ValueError(f"expected transport 'paper' or 'official', found {transport!r}")
        _require_finite(scale)
        if not self.is_adapter and scale != 1.0:
            self._refuse("an adapter, which can be scaled", "leave scale at 1: a projection is solved as it is")
        return AttachedOverlay(
            self.manifest, self.tensors, self.config, self.identity, self.label, float(scale), transport
        )

    def set_scale(self, pipe: Any, scale: float) -> None:
        """Change the strength of an attached adapter; 0 switches it off, 1 is as trained.

        Raises:
            ManifestError: If this is a projection.
            StaleAttachmentError: If it is not attached to that pipeline.
        """
        if not self.is_adapter:
            self._refuse("an adapter, which can be scaled", "detach the projection to switch it off")
        _require_finite(scale)
        self._change(pipe, scale=float(scale))

    def fuse(self, pipe: Any, *, gate: float = 1.0) -> None:
        """Write it into the weights of the pipeline's components, which can then be saved and compiled.

        An adapter loses its transport: every prompt opens it by the same ``gate``, kept prompts as well as erased ones.
        A projection goes into the key and value matrices of the UNet, which then project ``prompt_embeds``, too.

        Args:
            pipe: A pipeline that it is attached to.
            gate: Constant gate of an adapter, in [0, 1].

        Raises:
            StaleAttachmentError: If it is not attached to that pipeline.
            AlreadyAttachedError: If it is a projection and live adapters are attached, which come before it, or an
                adapter with the release's arithmetic.
            ValueError: If the gate is outside [0, 1].
        """
        overlay = self._found(pipe)
        if not 0 <= gate <= 1:
            raise ValueError(f"expected a gate in [0, 1], found {gate}")
        if self.is_adapter and overlay.transport == "official":
            raise AlreadyAttachedError(
                f"expected {self.label} with transport 'paper', found 'official', whose adapters depend on each other "
                "and cannot be fused one by one; detach it and attach it again"
            )
        live = [other.label for other in composition_of(pipe).overlays if other.is_adapter and other.live]
        if not self.is_adapter and live:
            raise AlreadyAttachedError(
                f"expected no live adapter where a projection is fused, found {', '.join(live)}: their input would no "
                "longer be projected; fuse or detach them first"
            )
        if self.is_adapter and overlay.live:
            warnings.warn(
                f"{self.label} loses its transport: from now on every prompt opens it by {gate:g}, kept ones, too",
                CompatibilityWarning,
                stacklevel=2,
            )
        self._change(pipe, gate=float(gate))

    def _found(self, pipe: Any) -> AttachedOverlay:
        overlay = composition_of(pipe).find(self.identity)
        if overlay is None:
            raise StaleAttachmentError(f"expected {self.label} attached to this pipeline, found it is not; attach it")
        return overlay

    def _change(self, pipe: Any, **fields: Any) -> None:
        overlay = self._found(pipe)
        others = [other for other in composition_of(pipe).overlays if other is not overlay]
        compose(pipe, [*others, replaced(overlay, **fields)])

    def detach(self, pipe: Any) -> None:
        """Take it off a pipeline; whatever else is attached stays. One that it is not attached to stays as it is.

        Raises:
            StaleAttachmentError: If a component was replaced, or something loaded into it, since it was attached.
        """
        composition = composition_of(pipe)
        if composition.find(self.identity) is None:
            return
        compose(pipe, [overlay for overlay in composition.overlays if overlay.identity != self.identity])
        logger.info("detached %s", self.label)

    @contextmanager
    def attached(self, pipe: Pipeline, *, allow_partial: bool = False, replace: bool = False) -> Iterator[Pipeline]:
        """Attach for the length of a ``with`` block, then restore the overlays that were there before it."""
        before = composition_of(pipe).overlays
        self.attach(pipe, allow_partial=allow_partial, replace=replace)
        try:
            yield pipe
        finally:
            compose(pipe, before)


def _require_finite(scale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"expected a finite scale, found {scale}")


def _require_same(there: AttachedOverlay, asked: AttachedOverlay) -> None:
    if (there.scale, there.transport) != (asked.scale, asked.transport):
        raise AlreadyAttachedError(
            f"expected {there.label} not to be attached, found it with scale {there.scale:g} and transport "
            f"{there.transport!r}; change it by set_scale, or detach it first"
        )


def _require_one_transport(overlays: tuple[AttachedOverlay, ...], asked: AttachedOverlay) -> None:
    odd = [overlay.label for overlay in overlays if overlay.is_adapter and overlay.transport != asked.transport]
    if odd and asked.is_adapter:
        raise AlreadyAttachedError(
            f"expected every adapter of a pipeline to have transport {asked.transport!r}, found another one of "
            f"{', '.join(odd)}; detach them first"
        )
    ranks = {overlay.config["rank"] for overlay in (*overlays, asked) if overlay.is_adapter}
    if asked.is_adapter and asked.transport == "official" and len(ranks) > 1:
        raise AlreadyAttachedError(
            f"expected adapters of one rank under transport 'official', found ranks {sorted(ranks)}; the release adds "
            "their vectors up; use transport 'paper'"
        )
