"""RobustEncoder: an artifact in memory, and the one line that puts it into a pipeline."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import content_sha256, picked, sketch
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.storage import Artifact, provenance, save
from robust_encoders.clip.state_dict import architecture, nested_state
from robust_encoders.clip.text_model import build, require_fit
from robust_encoders.compatibility import overlay as overlay_checks
from robust_encoders.compatibility.encoder import check
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.errors import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IntegrityError,
    ManifestError,
    StaleAttachmentError,
)
from robust_encoders.hub.catalog import announce
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.load import load
from robust_encoders.hub.upload import PushOptions, publish, workplace
from robust_encoders.pipeline import attach as attaching
from robust_encoders.pipeline import composition
from robust_encoders.pipeline.attach import Attachment, Status, attachment_of
from robust_encoders.pipeline.shared_copy import beneath, is_twin
from robust_encoders.pipeline.textual_inversion import first_rows

if TYPE_CHECKING:
    from transformers import CLIPTextModel

logger = logging.getLogger(__name__)
Pipeline = TypeVar("Pipeline")


class RobustEncoder:
    """A text encoder that has unlearned a concept: manifest, tensors and configuration.

    Args:
        manifest: What it is and what it was made from.
        tensors: ``text_model.*`` names to finite tensors of one floating dtype; shared, not copied.
        config: The text encoder's configuration, as ``to_dict()`` gives it.

    Raises:
        ManifestError: If the manifest is of a form other than ``weights`` or of another component.
        IntegrityError: Naming every tensor that does not belong to that configuration.
    """

    def __init__(self, manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        _require_whole_encoder(manifest)
        require_fit(tensors, config)
        self._take(manifest, tensors, config)

    def _take(self, manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.manifest = manifest
        self.tensors: Mapping[str, Tensor] = {name: tensors[name].detach() for name in sorted(tensors)}
        self.config: Mapping[str, Any] = self._configured(config)
        self._taken = _state_of(self.tensors)
        self.source = ""

    def _configured(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return architecture(config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label}, base={self.manifest.base.family!r}, dtype={self.dtype})"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> RobustEncoder:
        """Load an encoder, an adapter or a projection, and verify every byte of it against its manifest.

        Names resolve in this order: ``shapes/...`` (inside the package), the catalog, an existing folder, ``org/name``
        on the Hub.

        Args:
            name_or_path: The name or the folder.
            subfolder: Of the folder or repository.
            revision: Branch, tag or commit of the repository.
            variant: Load ``model.<variant>.safetensors``.
            dtype: Cast to it; by default as stored.
            cache_dir: Where downloads are kept.
            token: For private and gated repositories.
            local_files_only: Never use the network.
            force_download: Fetch again what is in the cache.

        Raises:
            UnknownNameError: If nothing has that name.
            AssetsMissingError: If the package was installed without its encoders.
            ConversionNeededError: If a folder holds only pickles, or a name stands for weights that are not fetched.
            DownloadError: If the Hub does not deliver.
            ManifestError: If the manifest is missing or malformed.
            IntegrityError: If a file, a tensor or a value is not as the manifest says.

        Returns:
            An :class:`Overlay` if the artifact is an adapter or a projection.
        """
        announce(name_or_path, subfolder)
        options = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        found = load(name_or_path, subfolder=subfolder, variant=variant, options=options)
        encoder = kind_of(found.artifact.manifest)._verified(found.artifact)
        encoder = encoder if dtype is None else encoder._cast(dtype)
        encoder.source = found.source
        return encoder

    @classmethod
    def _verified(cls, found: Artifact) -> RobustEncoder:
        """Return an encoder of what was checked while it was read, without checking it all again."""
        _require_whole_encoder(found.manifest)
        encoder = cls.__new__(cls)
        encoder._take(found.manifest, found.tensors, found.config)
        encoder.__dict__["content_sha256"] = found.content_sha256  # where cached_property looks first
        return encoder

    def _cast(self, dtype: torch.dtype) -> RobustEncoder:
        # Checked anew: a large value may be infinite in half precision.
        cast = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        return self if dtype == self.dtype else type(self)(self.manifest, cast, self.config)

    @property
    def label(self) -> str:
        """Concept and method in words."""
        return f"{self.manifest.concept.name!r} erased by {self.manifest.method['name']}"

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""
        return next(iter(self.tensors.values())).dtype

    @cached_property
    def content_sha256(self) -> str:
        """Hash of names, dtypes, shapes and bytes of the tensors: what makes this encoder this one."""
        return content_sha256(self.tensors)

    @property
    def provenance(self) -> dict[str, Any]:
        """What an attached or saved text encoder says about itself, as ``config.robust_encoders``."""
        return provenance(self.manifest, self.content_sha256)

    def text_encoder(self) -> CLIPTextModel:
        """Return a plain ``transformers.CLIPTextModel``, for ``from_pretrained(base, text_encoder=...)``.

        Its Parameters are its own, over the storage of this encoder: moving or casting it moves nobody else, training
        it in place would.

        Raises:
            IntegrityError: If this encoder's tensors were changed in place since they were loaded.
        """
        self._require_unchanged()
        return build(self.tensors, self.config, self.provenance)

    def _require_unchanged(self) -> None:
        if _state_of(self.tensors) != self._taken:
            raise IntegrityError(
                f"expected the tensors of {self.label} as they were loaded, found them changed in place, by "
                "training or by a LoRA fused into an attached pipeline perhaps; load the encoder again"
            )

    def check(self, pipe: Any, *, allow_partial: bool = False) -> CompatReport:
        """Ask whether this encoder fits a pipeline, and change nothing.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: Accept that other text encoders of the pipeline stay as they are.
        """
        return check(pipe, self.manifest, self.config, allow_partial=allow_partial)

    def attach(self, pipe: Pipeline, *, allow_partial: bool = False, replace: bool = False) -> Pipeline:
        """Put this encoder into a pipeline, in the place and precision of the one it replaces.

        All or nothing: if anything fails, the pipeline is as before. Attaching the encoder that is attached already
        changes nothing. Many threads may share an encoder, but one pipeline must not be attached to, detached from or
        used by two threads at once.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: Accept, with a warning, that other text encoders of the pipeline stay as they are.
            replace: Take the place of another robust encoder; ``detach`` then restores the pipeline's first encoder.

        Returns:
            The same pipeline.

        Raises:
            IncompatibleError: Naming every reason why it does not fit.
            AlreadyAttachedError: If another robust encoder is attached and ``replace`` is false.
            StaleAttachmentError: If one was attached and something else took its place since, or it is this one and its
                weights were changed.
        """
        if composition.composition_of(pipe).parts:
            overlay_checks.require_still_fit(pipe, sketch(self.tensors))
        with composition.lifted(pipe):
            return self._attach(pipe, allow_partial=allow_partial, replace=replace)

    def _attach(self, pipe: Pipeline, *, allow_partial: bool, replace: bool) -> Pipeline:
        if attaching.is_attached(pipe, self.manifest.component, self.content_sha256):
            return pipe
        if not replace and (found := attaching.label_in(pipe, self.manifest.component, self.content_sha256)):
            raise AlreadyAttachedError(
                f"expected a pipeline without a robust encoder, found {found}; detach it first, or pass replace=True"
            )
        report = self.check(pipe, allow_partial=allow_partial)
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
        logger.info("attached %s", self.label)
        return pipe

    def detach(self, pipe: Any) -> None:
        """Put the pipeline's own encoder back, the same object.

        If the pipeline was moved or cast meanwhile, it is moved and cast likewise. A pipeline that nothing was attached
        to stays as it is.

        Args:
            pipe: The pipeline.

        Raises:
            StaleAttachmentError: If the attached encoder was replaced since, by another robust encoder or by hand.
            IncompatibleError: If a projection or adapter is attached that was made for this encoder.
        """
        record = attachment_of(pipe)
        if record is None:
            return
        if record.identity != self.content_sha256:
            raise StaleAttachmentError(
                f"expected {self.label} in the pipeline, found {record.label}; call detach on that encoder"
            )
        self._require_still_fit(pipe, record.original)
        with composition.lifted(pipe):
            attaching.uninstall(pipe, record, to=record.original, then=None)
        logger.info("detached %s", self.label)

    @contextmanager
    def attached(self, pipe: Pipeline, *, allow_partial: bool = False, replace: bool = False) -> Iterator[Pipeline]:
        """Attach for the length of a ``with`` block, then restore what was there before it.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: As in :meth:`attach`.
            replace: As in :meth:`attach`; the block then ends with the other robust encoder back in place.

        Yields:
            The same pipeline.

        Raises:
            IncompatibleError: As :meth:`attach`.
            AlreadyAttachedError: As :meth:`attach`.
            StaleAttachmentError: If the encoder was replaced inside the block.
        """
        before = attachment_of(pipe)
        slot = getattr(pipe, self.manifest.component, None)
        module = beneath(slot) if is_twin(slot) else slot
        self.attach(pipe, allow_partial=allow_partial, replace=replace)
        undo = partial(self._undo, pipe, attachment_of(pipe), module, before)
        try:
            yield pipe
        except BaseException:
            try:
                undo()
            except StaleAttachmentError as error:  # the block's own error matters more
                warnings.warn(f"{self.label} stays attached: {error}", CompatibilityWarning, stacklevel=3)
            raise
        undo()

    def _undo(self, pipe: Any, record: Attachment | None, module: nn.Module | None, before: Attachment | None) -> None:
        self._require_still_fit(pipe, module)
        with composition.lifted(pipe):
            attaching.restore(pipe, record, module, before)

    def _require_still_fit(self, pipe: Any, module: nn.Module | None) -> None:
        """Check that what is attached over this encoder fits the one that comes back."""
        if module is not None and composition.composition_of(pipe).parts:
            overlay_checks.require_still_fit(pipe, sketch(first_rows(nested_state(module), self.config["vocab_size"])))

    @staticmethod
    def status(pipe: Any) -> Status:
        """Return what a pipeline carries.

        Args:
            pipe: A diffusers pipeline.
        """
        return replaced(attaching.status(pipe), overlays=tuple(p.label for p in composition.composition_of(pipe).parts))

    def save_pretrained(self, directory: str | Path) -> Manifest:
        """Write the artifact: manifest, ``config.json``, ``model.safetensors`` and model card; never half of it.

        An artifact that is there already is replaced; other files beside it are kept, and in a ``README.md`` everything
        but our own part and facts.

        Args:
            directory: The folder, made if need be.

        Returns:
            The manifest as written, with the hashes of the files.

        Raises:
            FileExistsError: If the folder holds something, but no artifact, or cannot be replaced: this process works
                in it, or it is a mount point.
            CardError: If a ``README.md`` is there whose metadata cannot be read.
            ManifestError: If the manifest holds a value that JSON cannot.
            IntegrityError: If this encoder's tensors were changed in place since they were loaded.
        """
        self._require_unchanged()
        self.manifest = save(
            directory, self.manifest, self.tensors, {**self.config, "robust_encoders": self.provenance}
        )
        return self.manifest

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "",
        create_pr: bool = False,
    ) -> str:
        """Publish the artifact on the Hub: manifest, configuration, weights and model card, in one commit.

        In a card that is there already, everything but our own part and facts is kept.

        Args:
            repo_id: ``org/name``, made if need be.
            private: Of the repository; None leaves it to the Hub's default, or as it is.
            token: With write permission; by default the one that was logged in with.
            revision: Branch, made if need be.
            commit_message: By default the label of this encoder.
            create_pr: Propose the commit to a repository that is there, instead of making it.

        Returns:
            URL of the commit, or of the pull request.

        Raises:
            PushError: If the Hub does not take it, or the repository is not as private as asked.
            CardError: If the card on the Hub has metadata that cannot be read.
            ManifestError: If the manifest holds a value that JSON cannot.
            IntegrityError: If this encoder's tensors were changed in place since they were loaded.
        """
        options = PushOptions(
            private=private, token=token, revision=revision, commit_message=commit_message, create_pr=create_pr
        )
        self._require_unchanged()
        with workplace() as folder:
            artifact = folder / "artifact"
            manifest = save(artifact, self.manifest, self.tensors, {**self.config, "robust_encoders": self.provenance})
            return publish(artifact, manifest, repo_id, options)


def kind_of(manifest: Manifest) -> type[RobustEncoder]:
    """Return the class of an artifact: whole encoders are of this one, adapters and projections are overlays."""
    if manifest.form == "weights":
        return RobustEncoder
    from robust_encoders.overlay import Overlay

    return Overlay


def _state_of(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Return names, shapes, dtypes and some values: enough to see that tensors were changed in place."""
    return picked(tensors).tolist(), [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]


def _require_whole_encoder(manifest: Manifest) -> None:
    if (manifest.form, manifest.component) != ("weights", "text_encoder"):
        raise ManifestError(
            f"expected form 'weights' of component 'text_encoder', found form {manifest.form!r} of "
            f"{manifest.component!r}; load it by RobustEncoder.from_pretrained"
        )
