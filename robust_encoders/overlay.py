"""Overlays: adapters, projections, deltas and erasers, which erase a concept by changing a part of a pipeline."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replaced
from functools import partial
from typing import Any, NoReturn

from torch import Tensor

from robust_encoders.artifact.forms import configuration, require_tensors
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.compatibility.overlay import check
from robust_encoders.compatibility.overlay_shapes import OverlayContent
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.errors import AlreadyAttachedError, CompatibilityWarning, ManifestError, StaleAttachmentError
from robust_encoders.loaded import LoadedArtifact, Pipeline
from robust_encoders.overlays.adapters import DEFAULT_TRANSPORT, Transport
from robust_encoders.pipeline.attached_overlay import AttachedOverlay
from robust_encoders.pipeline.composition import compose, composition_of
from robust_encoders.pipeline.overlay_rules import require_finite, require_fusible, require_room, require_same
from robust_encoders.pipeline.scopes import changing
from robust_encoders.pipeline.untouched import require_in_place

logger = logging.getLogger(__name__)


class Overlay(
    LoadedArtifact,
    forms=("adapter", "projection", "delta", "eraser"),
    expected="an adapter, a projection, a delta or an eraser",
):
    """An adapter (SPM), a projection (UCE, RECE), a delta (ESD) or an eraser (Receler) in memory.

    A pipeline can carry any number of overlays, at most one delta among them, with or without a whole robust encoder.
    The order in which they apply is fixed, see :mod:`robust_encoders.pipeline.composition`. Each overlay can be
    detached by itself; the result is then the same, bit for bit, as if it had never been attached.

    Args:
        manifest: Manifest of the overlay: its origin and facts.
        tensors: For an adapter, tensors under the keys of SPM's release; for a projection, ``projection`` (D, D). For a
            delta, trained tensors of the UNet under its parameter names. For an eraser, four tensors for each
            cross-attention, see :class:`robust_encoders.overlays.eraser.Eraser`.
        config: For an adapter, its ``prompts``, ``rank`` and ``alpha``. Other forms need none; that of an eraser
            becomes its ``rank``, and that of a projection or a delta becomes empty.

    Raises:
        ManifestError: If the manifest has another form.
        IntegrityError: If the tensors do not belong to that form.
    """

    @staticmethod
    def _require_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        require_tensors(manifest.form, tensors, config)

    @staticmethod
    def _configured(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Mapping[str, Any]:
        return configuration(manifest.form, tensors, config)

    @property
    def is_adapter(self) -> bool:
        """True for an adapter."""
        return self.manifest.form == "adapter"

    @property
    def identity(self) -> str:
        """SHA-256 that identifies the overlay: over its tensors and its configuration."""
        text = json.dumps([self.content_sha256, dict(self.config)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _refuse(self, expected: str, remedy: str) -> NoReturn:
        raise ManifestError(f"expected {expected}, found form {self.manifest.form!r} of {self.label}; {remedy}")

    def check(self, pipe: Any, *, allow_partial: bool = False, allow_large_vectors: bool = False) -> CompatReport:
        """Check if the overlay fits a pipeline; change nothing. See :meth:`LoadedArtifact.check`."""
        content = OverlayContent(self.manifest, self.tensors, self.config)
        return check(pipe, content, allow_partial=allow_partial, allow_large_vectors=allow_large_vectors)

    def attach(
        self,
        pipe: Pipeline,
        *,
        allow_partial: bool = False,
        replace: bool = False,
        allow_large_vectors: bool = False,
        scale: float = 1.0,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> Pipeline:
        """Lay the overlay over a pipeline; if anything fails, nothing is changed.

        The pipeline's components are exchanged for copies that share their weights, so other pipelines with the same
        components stay as they are. Attaching an overlay that is already attached changes nothing.

        Args:
            pipe: A Stable Diffusion pipeline.
            allow_partial: True if the caller accepts, with a warning, that other text encoders of the pipeline stay as
                they are.
            replace: Switch that removes every other overlay.
            allow_large_vectors: True if the caller accepts, with a warning, learned vectors of more than ten times the
                largest norm of the vocabulary; see :mod:`robust_encoders.pipeline.learned_vectors`.
            scale: Factor of an adapter's strength: 0 switches it off, 1 is the strength of its training.
            transport: Rule by which a prompt's gate (the strength with which the prompt opens the adapter) scales the
                adapter. ``paper`` adds gate times U D x, with one gate for each text. ``official`` draws what SPM's
                released code draws: both tensors are scaled by the gate, and a negative prompt gets the gate of its
                prompt. One adapter is then scaled by the gate squared, and several have cross terms. All adapters of a
                pipeline share one rule.

        Returns:
            The same pipeline.

        Raises:
            IncompatibleError: If the overlay does not fit; the message names every reason.
            AlreadyAttachedError: If it is attached with another scale or transport, or other adapters have another
                transport. Also if it is a delta and another delta is attached, unless ``replace`` is true.
            ManifestError: If a scale is given for another form than an adapter.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If a component was replaced, or something was loaded into it, after other overlays
                were attached.
        """
        asked = self._as_attached(scale, transport)
        with changing(pipe) as scopes:
            scopes.require_alone(f"attaching {self.label}")
            if not self._is_there(pipe, asked, replace=replace):
                self._attach(
                    pipe, asked, replace=replace, allow_partial=allow_partial, allow_large_vectors=allow_large_vectors
                )
        return pipe

    def _is_settled(self, pipe: Any, *, replace: bool) -> bool:
        return self._is_there(pipe, self._as_attached(1.0, DEFAULT_TRANSPORT), replace=replace)

    def _is_there(self, pipe: Any, asked: AttachedOverlay, *, replace: bool) -> bool:
        self._require_unchanged()
        composition = composition_of(pipe)
        there = composition.find(self.identity)
        if there is None or (replace and len(composition.overlays) > 1):
            return False
        require_same(there, asked)
        require_in_place(pipe, composition.hosts)
        return True

    def _attach(self, pipe: Any, asked: AttachedOverlay, *, replace: bool, **allowed: bool) -> None:
        before = composition_of(pipe).overlays
        if replace:
            compose(pipe, ())
        try:
            self._lay(pipe, asked, **allowed)
        except BaseException:
            if replace:
                compose(pipe, before)
            raise

    def _lay(self, pipe: Any, overlay: AttachedOverlay, **allowed: bool) -> None:
        overlays = composition_of(pipe).overlays
        require_room(overlays, overlay)
        report = self.check(pipe, **allowed)
        report.raise_if_incompatible()
        if report.warnings:
            warnings.warn(report.explain(), CompatibilityWarning, stacklevel=4)
        compose(pipe, [*overlays, overlay])
        logger.info("attached %s", self.label)

    def _as_attached(self, scale: float, transport: Transport) -> AttachedOverlay:
        if transport not in ("paper", "official"):
            raise ValueError(f"expected transport 'paper' or 'official', found {transport!r}")
        require_finite(scale)
        if not self.is_adapter and scale != 1.0:
            self._refuse("an adapter, which can be scaled", "leave scale at 1: other forms have no strength to set")
        return AttachedOverlay(
            self.manifest, self.tensors, self.config, self.identity, self.label, float(scale), transport
        )

    def set_scale(self, pipe: Any, scale: float) -> None:
        """Change the strength of an attached adapter; 0 switches it off, 1 is the strength of its training.

        Raises:
            ManifestError: If this overlay is no adapter.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If it is not attached to that pipeline.
        """
        if not self.is_adapter:
            self._refuse("an adapter, which can be scaled", "detach the overlay to switch it off")
        require_finite(scale)
        self._change(pipe, scale=float(scale))

    def fuse(self, pipe: Any, *, gate: float = 1.0) -> None:
        """Write the overlay into the weights of the pipeline's components, which can then be saved and compiled.

        A fused adapter no longer depends on the prompt: the same constant ``gate`` scales it for prompts with the
        concept and for retain prompts. A projection is multiplied into the key and value matrices of the UNet, which
        then project ``prompt_embeds``, too. A delta lies in the weights already, so nothing changes. An eraser cannot
        be fused.

        Args:
            pipe: A pipeline that the overlay is attached to.
            gate: Constant gate of an adapter, in [0, 1].

        Raises:
            StaleAttachmentError: If the overlay is not attached to that pipeline.
            AlreadyAttachedError: If it is a projection and adapters that are not fused are attached, which apply before
                it. Also if it is an adapter with transport ``official``.
            ManifestError: If it is an eraser, which is not linear.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            ValueError: If the gate is outside [0, 1].
        """
        with changing(pipe) as scopes:
            overlay = self._found(pipe)
            scopes.require_alone(f"fusing {self.label}")
            require_fusible(composition_of(pipe).overlays, overlay, gate)
            if overlay.form == "delta":
                return
            if self.is_adapter and overlay.live:
                warnings.warn(
                    f"{self.label} loses its transport: from now on it acts with gate {gate:g} on every prompt, also "
                    "on prompts without the concept",
                    CompatibilityWarning,
                    stacklevel=2,
                )
            self._change(pipe, gate=float(gate))

    def _found(self, pipe: Any) -> AttachedOverlay:
        overlay = composition_of(pipe).find(self.identity)
        if overlay is None:
            raise StaleAttachmentError(
                f"expected {self.label} attached to this pipeline, found that it is not; attach it first"
            )
        return overlay

    def _change(self, pipe: Any, **fields: Any) -> None:
        with changing(pipe) as scopes:
            overlay = self._found(pipe)
            scopes.require_alone(f"changing {self.label}")
            others = [other for other in composition_of(pipe).overlays if other is not overlay]
            compose(pipe, [*others, replaced(overlay, **fields)])

    def detach(self, pipe: Any) -> None:
        """Remove the overlay from a pipeline; other attached artifacts stay. Do nothing if it is not attached there.

        Raises:
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If a component was replaced, or something was loaded into it, after the overlay was
                attached.
        """
        with changing(pipe) as scopes:
            composition = composition_of(pipe)
            if composition.find(self.identity) is None:
                return
            scopes.require_alone(f"detaching {self.label}")
            compose(pipe, [overlay for overlay in composition.overlays if overlay.identity != self.identity])
        logger.info("detached %s", self.label)

    def _attach_for_scope(self, pipe: Any, *, replace: bool, allowed: Mapping[str, bool]) -> Callable[[Any], None]:
        before = composition_of(pipe).overlays
        self.attach(
            pipe,
            replace=replace,
            allow_partial=allowed["allow_partial"],
            allow_large_vectors=allowed["allow_large_vectors"],
        )
        return partial(self._restore, before=before)

    def _restore(self, pipe: Any, *, before: Sequence[AttachedOverlay]) -> None:
        """Restore the overlays before a block; those that were attached inside it, apart from this one, stay."""
        now = composition_of(pipe).overlays
        if now is before:
            return
        known = {self.identity, *(overlay.identity for overlay in before)}
        kept = list(before)
        for overlay in (one for one in now if one.identity not in known):
            try:
                require_room(kept, overlay)
            except AlreadyAttachedError as error:
                raise StaleAttachmentError(
                    f"expected room for the overlays before the block, found {overlay.label} attached inside it, and "
                    f"left all as it is: {error}"
                ) from error
            kept.append(overlay)
        compose(pipe, kept)
