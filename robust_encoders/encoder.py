"""RobustEncoder: a whole text encoder in memory, which one call of ``attach`` puts into a pipeline."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import Sketch, sketch
from robust_encoders.artifact.forms import PROJECTED
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import architecture, nested_state
from robust_encoders.clip.text_model import build, require_fit
from robust_encoders.compatibility import overlay as overlay_checks
from robust_encoders.compatibility.encoder import check
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.errors import AlreadyAttachedError, CompatibilityWarning, StaleAttachmentError
from robust_encoders.loaded import LoadedArtifact, Pipeline
from robust_encoders.pipeline import attach as attaching
from robust_encoders.pipeline import composition
from robust_encoders.pipeline.attach import Attachment, attachment_of, has_overlays
from robust_encoders.pipeline.attached_overlay import PREFIXES
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.scopes import changing
from robust_encoders.pipeline.shared_copy import is_shared_copy, original_of
from robust_encoders.pipeline.textual_inversion import EMBEDDING, first_rows
from robust_encoders.pipeline.untouched import require_untouched
from robust_encoders.utils.inference_mode import makes_normal_tensors

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

logger = logging.getLogger(__name__)


class RobustEncoder(
    LoadedArtifact, forms=("weights",), expected="form 'weights' of component 'text_encoder' or 'text_encoder_2'"
):
    """A text encoder that has unlearned a concept: manifest, tensors and configuration.

    Args:
        manifest: Manifest of the encoder: its origin and facts.
        tensors: Mapping of ``text_model.*`` names to finite tensors of one floating dtype; the storage is shared, not
            copied. Component ``text_encoder_2``, the second text encoder of SDXL, also has ``text_projection.weight``.
        config: Configuration of the text encoder, in the format of ``to_dict()``.

    Raises:
        ManifestError: If the manifest has a form other than ``weights``, or another component.
        IntegrityError: If tensors do not belong to that configuration; the message names each of them.
    """

    @staticmethod
    def _require_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        require_fit(tensors, config, projected=manifest.component == PROJECTED)

    @staticmethod
    def _configured(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Mapping[str, Any]:
        return architecture(config)

    @makes_normal_tensors
    def text_encoder(self) -> CLIPTextModel | CLIPTextModelWithProjection:
        """Return a plain ``transformers.CLIPTextModel``, for ``from_pretrained(base, text_encoder=...)``.

        For component ``text_encoder_2`` it is a ``CLIPTextModelWithProjection``, to be passed as ``text_encoder_2``.
        The model has its own Parameters, which share the storage of this encoder's tensors. Moving or casting the model
        therefore affects no other model. Training it in place does: it changes the shared values.

        Raises:
            IntegrityError: If this encoder's tensors were changed in place after they were loaded.
        """
        self._require_unchanged()
        return build(self.tensors, self.config, self.provenance)

    def check(self, pipe: Any, *, allow_partial: bool = False, allow_large_vectors: bool = False) -> CompatReport:
        """Check if this encoder fits a pipeline; change nothing.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: True if the caller accepts that other text encoders of the pipeline stay as they are.
            allow_large_vectors: True if the caller accepts learned vectors of large norm, see :meth:`attach`.
        """
        return check(
            pipe,
            self.manifest,
            self.config,
            allow_partial=allow_partial,
            embeddings=self.tensors[EMBEDDING],
            allow_large_vectors=allow_large_vectors,
        )

    def attach(
        self,
        pipe: Pipeline,
        *,
        allow_partial: bool = False,
        replace: bool = False,
        allow_large_vectors: bool = False,
    ) -> Pipeline:
        """Put this encoder into a pipeline, on the device and in the precision of the encoder that it replaces.

        If anything fails, the pipeline stays as it was. Attaching an encoder that is already attached changes nothing.
        Many threads may share one encoder. Threads that attach to one pipeline at the same time do so one after the
        other. No thread may draw with a pipeline while another one attaches to it or detaches from it.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: True if the caller accepts, with a warning, that other text encoders of the pipeline stay as
                they are.
            replace: Switch that replaces another attached robust encoder. ``detach`` then restores the encoder that
                the pipeline had before any robust encoder.
            allow_large_vectors: True if the caller accepts, with a warning, learned vectors of more than ten times the
                largest norm of the vocabulary; see :mod:`robust_encoders.pipeline.learned_vectors`.

        Returns:
            The same pipeline.

        Raises:
            IncompatibleError: If the encoder does not fit; the message names every reason.
            AlreadyAttachedError: If another robust encoder is attached and ``replace`` is false.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If an attached encoder was replaced by something else, or if this encoder is already
                attached and its weights were changed there.
        """
        with changing(pipe) as scopes:
            scopes.require_alone(f"attaching {self.label}")
            if not self._is_settled(pipe, replace=replace):
                with self._without_overlays(pipe, lambda: sketch(self.tensors)):
                    self._attach(pipe, replace, allow_partial=allow_partial, allow_large_vectors=allow_large_vectors)
        return pipe

    def _is_settled(self, pipe: Any, *, replace: bool) -> bool:
        component = self.manifest.component
        if attachment_of(pipe, component) is None:
            return False
        require_untouched(pipe, composition.composition_of(pipe).hosts)
        return attaching.is_attached(pipe, component, self.content_sha256, composition.beneath(pipe, component))

    def _attach(self, pipe: Any, replace: bool, **allowed: bool) -> None:
        if not replace and (found := attaching.label_in(pipe, self.manifest.component, self.content_sha256)):
            raise AlreadyAttachedError(
                f"expected no robust encoder in pipe.{self.manifest.component}, found {found}; detach it first, or "
                "pass replace=True"
            )
        report = self.check(pipe, **allowed)
        report.raise_if_incompatible()
        if report.warnings:
            warnings.warn(report.explain(), CompatibilityWarning, stacklevel=3)
        attaching.install(
            pipe,
            self.text_encoder,
            component=self.manifest.component,
            identity=self.content_sha256,
            label=self.label,
            source=self.source,
        )

    def detach(self, pipe: Any) -> None:
        """Put the pipeline's original text encoder back: the same object as before.

        If the pipeline was moved or cast in the meantime, the original encoder is moved and cast in the same way. A
        pipeline without an attached encoder stays as it is.

        Args:
            pipe: The pipeline that this encoder is attached to.

        Raises:
            StaleAttachmentError: If the attached encoder was replaced, by another robust encoder or by hand.
            IncompatibleError: If an attached projection or adapter was made for this encoder.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
        """
        with changing(pipe) as scopes:
            record = attachment_of(pipe, self.manifest.component)
            if record is None:
                return
            if record.identity != self.content_sha256:
                raise StaleAttachmentError(
                    f"expected {self.label} in pipe.{record.component}, found {record.label}; call detach on that "
                    "encoder"
                )
            scopes.require_alone(f"detaching {self.label}")
            with self._without_overlays(pipe, lambda: self._sketch(record.original)):
                attaching.uninstall(pipe, record, to=record.original, then=None)
        logger.info("detached %s", self.label)

    def _attach_for_scope(self, pipe: Any, *, replace: bool, allowed: Mapping[str, bool]) -> Callable[[Any], None]:
        before = attachment_of(pipe, self.manifest.component)
        slot = part_of(pipe, self.manifest.component)
        module = original_of(slot) if is_shared_copy(slot) else slot
        self.attach(pipe, replace=replace, **allowed)
        record = attachment_of(pipe, self.manifest.component)
        return partial(self._undo, record=record, module=module, before=before)

    def _undo(
        self, pipe: Any, *, record: Attachment | None, module: nn.Module | None, before: Attachment | None
    ) -> None:
        if record is before:  # it was attached before the block
            return
        with self._without_overlays(pipe, lambda: self._sketch(module)):
            attaching.restore(pipe, record, module, before)

    def _without_overlays(self, pipe: Any, coming: Callable[[], Sketch | None]) -> AbstractContextManager[None]:
        """Return a context in which the overlays of a pipeline are lifted; they are laid back at its end.

        A pipeline without overlays stays as it is. So do overlays if this encoder has another slot than they.

        Args:
            pipe: A diffusers pipeline.
            coming: Function that returns the sketch (a few values of every tensor) of the text encoder under the
                overlays after the change; None for an empty slot.

        Raises:
            IncompatibleError: If an overlay was made for the text encoder that is taken out.
        """
        if not has_overlays(pipe) or self.manifest.component not in PREFIXES:
            return nullcontext()
        if (found := coming()) is not None:
            overlay_checks.require_still_fit(pipe, found)
        return composition.lifted(pipe)

    def _sketch(self, module: nn.Module | None) -> Sketch | None:
        return None if module is None else sketch(first_rows(nested_state(module), self.config["vocab_size"]))
