"""The common base class of whole encoders and overlays: an artifact in memory."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import config_sha256, content_sha256, picked
from robust_encoders.artifact.forms import COMPONENTS, PICTURE_NAME
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.provenance import metadata, provenance
from robust_encoders.artifact.reader import Artifact
from robust_encoders.artifact.stated import annotated, require_stated
from robust_encoders.artifact.writer import save
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.concepts import Concept
from robust_encoders.errors import IntegrityError, ManifestError
from robust_encoders.hub.catalog import announce
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.load import load
from robust_encoders.hub.upload import PushOptions, publish, workplace
from robust_encoders.pipeline.scopes import Scope
from robust_encoders.pipeline.status import Status, status
from robust_encoders.utils.dtypes import dtype_or_none
from robust_encoders.utils.home import expanded, expanded_or_none
from robust_encoders.utils.inference_mode import as_normal, normal_tensors

Pipeline = TypeVar("Pipeline")
_CLASSES: dict[str, type[LoadedArtifact]] = {}


class LoadedArtifact(ABC):
    """Manifest, tensors and configuration of an artifact.

    A subclass declares the forms that it holds, for example ``weights`` or ``adapter``, and how it attaches.

    Args:
        manifest: Manifest of the artifact: its origin and facts.
        tensors: Mapping of names to finite tensors; the storage is shared, not copied.
        config: Configuration that belongs to the tensors.

    Raises:
        ManifestError: If the manifest has a form that this class does not hold.
        IntegrityError: If tensors do not belong to that form and configuration; the message names each of them.
    """

    forms: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[str] = ""

    def __init_subclass__(cls, *, forms: tuple[str, ...] = (), expected: str = "", **kwargs: Any) -> None:
        """Register a subclass for the forms that it holds.

        Args:
            forms: Forms of a manifest that the class holds; empty for a class that inherits the forms of its parent.
            expected: These forms in words, for the error message that refuses other forms.
            kwargs: Arguments for other base classes.
        """
        super().__init_subclass__(**kwargs)
        if forms:
            cls.forms, cls.expected = forms, expected
            _CLASSES.update(dict.fromkeys(forms, cls))

    def __init__(self, manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self._require_form(manifest)
        self._require_tensors(manifest, tensors, config)
        self._take(manifest, tensors, config)

    def _take(self, manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.manifest = manifest
        self.tensors: Mapping[str, Tensor] = {name: as_normal(tensors[name].detach()) for name in sorted(tensors)}
        self.config: Mapping[str, Any] = self._configured(manifest, self.tensors, config)
        self._taken = _state_of(self.tensors)
        self.source = ""

    @staticmethod
    @abstractmethod
    def _require_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None: ...

    @staticmethod
    @abstractmethod
    def _configured(
        manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Any]: ...

    @classmethod
    def _require_form(cls, manifest: Manifest) -> None:
        if manifest.form not in cls.forms or manifest.component not in COMPONENTS[manifest.form]:
            raise ManifestError(
                f"expected {cls.expected}, found form {manifest.form!r} of {manifest.component!r}; "
                "load it by RobustEncoder.from_pretrained"
            )

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
        dtype: torch.dtype | str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> LoadedArtifact:
        """Load a whole encoder or an overlay, and verify every byte of it against its manifest.

        A name is looked up in this order: ``shapes/...`` and ``emoji/...`` (inside the package), the catalog, a folder,
        ``org/name`` on the Hub.

        Args:
            name_or_path: Name or folder of the artifact.
            subfolder: Subfolder of the folder or repository.
            revision: Branch, tag or commit of the repository.
            variant: Name of a variant; ``model.<variant>.safetensors`` is loaded instead of ``model.safetensors``.
            dtype: Precision that the tensors are cast to, a dtype of torch or its name, for example ``"float16"``; None
                keeps the stored precision.
            cache_dir: Folder where downloads are kept.
            token: Token for private and gated repositories.
            local_files_only: Switch that forbids the use of the network.
            force_download: Switch that downloads files again even if they are in the cache.

        Raises:
            UnknownNameError: If nothing has that name.
            AssetsMissingError: If the package was installed without its encoders.
            ConversionNeededError: If a folder holds only pickles, or a name stands for weights that this version does
                not fetch.
            DownloadError: If the Hub does not deliver a file.
            ManifestError: If the manifest is missing or malformed.
            IntegrityError: If a file, a tensor or a value differs from what the manifest says.
            ValueError: If ``dtype`` is no precision.

        Returns:
            A :class:`RobustEncoder`, or an :class:`Overlay` if the artifact is an adapter, projection, delta or eraser.
        """
        precision = dtype_or_none(dtype)
        announce(name_or_path, subfolder)
        options = HubOptions(
            revision=revision,
            cache_dir=expanded_or_none(cache_dir),
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        with normal_tensors():  # an encoder that a server loads in inference mode can be trained later
            found = load(name_or_path, subfolder=subfolder, variant=variant, options=options)
            loaded = class_of(found.artifact.manifest)._verified(found.artifact)
            loaded = loaded if precision is None else loaded._cast(precision)
        loaded.source = found.source
        return loaded

    @classmethod
    def _verified(cls, artifact: Artifact) -> Self:
        """Return an instance that holds an artifact which the reader already checked; nothing is checked again."""
        cls._require_form(artifact.manifest)
        made = cls.__new__(cls)
        made._take(artifact.manifest, artifact.tensors, artifact.config)
        made.__dict__["content_sha256"] = artifact.content_sha256  # cached_property returns this value
        return made

    def _cast(self, dtype: torch.dtype) -> Self:
        # The constructor checks the cast tensors again: a large value may become infinite in half precision.
        cast = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        return self if dtype == self.dtype else type(self)(self.manifest, cast, self.config)

    @property
    def label(self) -> str:
        """Name of the artifact in messages: its concept and method."""
        return f"{self.manifest.concept.name!r} erased by {self.manifest.method['name']}"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the tensors."""
        return next(iter(self.tensors.values())).dtype

    @cached_property
    def content_sha256(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of the tensors; it identifies the artifact."""
        return content_sha256(self.tensors)

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the configuration, such as an adapter's prompts, rank and alpha."""
        return config_sha256(self.config)

    @property
    def identity(self) -> str:
        """Hash by which a pipeline recognises the artifact; equal artifacts have equal ones."""
        return self.content_sha256

    @property
    def provenance(self) -> dict[str, Any]:
        """Facts that an attached or saved text encoder carries as ``config.robust_encoders``."""
        return provenance(self.manifest, self.content_sha256)

    def _require_unchanged(self) -> None:
        if _state_of(self.tensors) != self._taken:
            raise IntegrityError(
                f"expected the tensors of {self.label} as they were loaded, found them changed in place, perhaps by "
                "training or by a LoRA that was fused into an attached pipeline; load the encoder again"
            )

    @abstractmethod
    def check(self, pipe: Any, *, allow_partial: bool = False, allow_large_vectors: bool = False) -> CompatReport:
        """Check if the artifact fits a pipeline; change nothing.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: True if the caller accepts that other text encoders of the pipeline stay as they are.
            allow_large_vectors: True if the caller accepts learned vectors of large norm, see :meth:`attach`.
        """

    @abstractmethod
    def attach(
        self,
        pipe: Pipeline,
        *,
        allow_partial: bool = False,
        replace: bool = False,
        allow_large_vectors: bool = False,
    ) -> Pipeline:
        """Attach the artifact to a pipeline and return the same pipeline; if anything fails, nothing is changed.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: True if the caller accepts, with a warning, that other text encoders of the pipeline stay as
                they are.
            replace: Switch that replaces attached artifacts of the same kind.
            allow_large_vectors: True if the caller accepts, with a warning, learned vectors of more than ten times the
                largest norm of the vocabulary; see :mod:`robust_encoders.pipeline.learned_vectors`.

        Raises:
            IncompatibleError: If the artifact does not fit; the message names every reason.
            AlreadyAttachedError: If an attached artifact forbids it.
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If an attached artifact was replaced or changed after it was attached.
        """

    @abstractmethod
    def detach(self, pipe: Any) -> None:
        """Remove the artifact from a pipeline; do nothing if it is not attached there.

        Args:
            pipe: A diffusers pipeline.

        Raises:
            OpenScopeError: If another thread has a scope open on the pipeline, see :meth:`attached`.
            StaleAttachmentError: If the attached artifact was replaced or changed after it was attached.
        """

    def attached(
        self,
        pipe: Pipeline,
        *,
        allow_partial: bool = False,
        replace: bool = False,
        allow_large_vectors: bool = False,
    ) -> Scope[Pipeline]:
        """Attach the artifact for the length of a ``with`` block, then restore the state before the block.

        Scopes are counted on the pipeline: the artifact leaves when the last of its scopes ends. In one thread, scopes
        of several artifacts may be open. They are undone in the reverse order of entering; one that ends earlier stays
        attached until the later ones have ended. Several threads may have scopes of one artifact open. Each asyncio
        task counts as a thread of its own.

        An artifact that was attached before the block stays. Overlays that are attached inside the block stay, too.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: True if the caller accepts that other text encoders stay as they are, see :meth:`attach`.
            replace: Switch that replaces attached artifacts of the same kind, see :meth:`attach`. After the block they
                are back in place.
            allow_large_vectors: True if the caller accepts learned vectors of large norm, see :meth:`attach`.

        Returns:
            A context manager whose block gets the same pipeline. It can be entered several times.

        Raises:
            IncompatibleError: On entering, if the artifact does not fit, see :meth:`attach`.
            AlreadyAttachedError: On entering, if an attached artifact forbids it.
            OpenScopeError: On entering, if another thread has a scope of another artifact open on the pipeline.
            StaleAttachmentError: On entering or leaving, if an attached artifact was replaced or changed.
        """
        return Scope(
            pipe,
            (self.identity, self.label),
            settled=partial(self._is_settled, pipe, replace=replace),
            attach=partial(
                self._attach_for_scope,
                pipe,
                replace=replace,
                allowed={"allow_partial": allow_partial, "allow_large_vectors": allow_large_vectors},
            ),
        )

    @abstractmethod
    def _is_settled(self, pipe: Any, *, replace: bool) -> bool:
        """Return true if the artifact is attached to a pipeline and ``attach`` would change nothing."""

    @abstractmethod
    def _attach_for_scope(self, pipe: Any, *, replace: bool, allowed: Mapping[str, bool]) -> Callable[[Any], None]:
        """Attach the artifact; return a function of the pipeline that restores the state before."""

    @staticmethod
    def status(pipe: Any, *, references: bool = False) -> Status:
        """Return which robust encoder and which overlays a pipeline carries, and what can go past them.

        Args:
            pipe: A diffusers pipeline.
            references: Switch that searches the program for objects that hold a replaced component, such as tools for
                prompt weighting; ``bypasses`` then begins with them. The search takes seconds in a large program.
        """
        return status(pipe, references=references)

    def save_pretrained(self, directory: str | Path) -> Manifest:
        """Write the artifact to a folder: manifest, weights, their configuration if they need one, and model card.

        If anything fails, the folder stays as it was. An artifact that is already there is replaced; other files in the
        folder are kept. In an existing ``README.md``, only the part and the metadata that this package writes change.

        Args:
            directory: Target folder; it is created if it does not exist.

        Returns:
            The manifest as written, with the hashes of the files.

        Raises:
            FileExistsError: If the folder holds files but no artifact. Also if the folder cannot be replaced, because
                it contains the working directory of this process or is a mount point.
            CardError: If the folder has a ``README.md`` with metadata that cannot be read.
            ManifestError: If the manifest holds a value that JSON cannot represent.
            IntegrityError: If the tensors were changed in place after they were loaded.
        """
        self.manifest = self._saved(directory)
        return self.manifest

    def _saved(self, directory: str | Path) -> Manifest:
        self._require_unchanged()
        return save(directory, self.manifest, self.tensors, {**self.config, "robust_encoders": self.provenance})

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata for a file of these tensors under other names, so that the file says what was erased and how."""
        return metadata(self.manifest, self.content_sha256)

    def annotate(
        self, *, concept: Concept | None = None, method: str = "", license: str = "", base: Base | None = None
    ) -> Self:
        """State facts in the manifest; the facts that are not passed stay. Save or push the artifact afterwards.

        Args:
            concept: Concept that was erased.
            method: Name of the method.
            license: SPDX or Hub identifier of the weights' licence.
            base: Base that the artifact was made from, see :meth:`robust_encoders.Base.from_pipeline`.

        Returns:
            This artifact.

        Raises:
            ManifestError: If a passed fact states nothing, for example ``not stated``, or the manifest has fingerprints
                of another base; the message names each of them, and nothing is changed.
        """
        self.manifest = annotated(self.manifest, concept=concept, method=method, license=license, base=base)
        return self

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "",
        create_pr: bool = False,
        picture: str | Path | None = None,
    ) -> str:
        """Publish the artifact on the Hub: all its files and the model card in one commit.

        In an existing model card, only the part and the metadata that this package writes change. An artifact that does
        not state its concept, method and licence is refused before anything is sent, see :meth:`annotate`.

        Args:
            repo_id: Repository as ``org/name``; it is created if it does not exist.
            private: Visibility of the repository: True for private, False for public. None keeps the visibility of an
                existing repository and leaves a new one to the Hub's default.
            token: Token with write permission; by default the token of the Hub login.
            revision: Branch; it is created if it does not exist.
            commit_message: Message of the commit; by default the label of the artifact.
            create_pr: Switch that opens a pull request on an existing repository instead of committing.
            picture: Path of a PNG for the model card, see :func:`robust_encoders.pipeline.before_after.before_after`.

        Returns:
            URL of the commit, or of the pull request.

        Raises:
            PushError: If facts are missing, the Hub refuses the push, or the repository's visibility is not the one
                that was asked for.
            CardError: If the card on the Hub has metadata that cannot be read.
            ManifestError: If the manifest holds a value that JSON cannot represent.
            IntegrityError: If the tensors were changed in place after they were loaded.
            FileNotFoundError: If there is no such picture.
        """
        options = PushOptions(
            private=private, token=token, revision=revision, commit_message=commit_message, create_pr=create_pr
        )
        require_stated(self.manifest)
        with workplace() as folder:
            manifest = self._saved(folder / "artifact")
            if picture is not None:
                shutil.copyfile(expanded(picture), folder / "artifact" / PICTURE_NAME)
            return publish(folder / "artifact", manifest, repo_id, options)


def class_of(manifest: Manifest) -> type[LoadedArtifact]:
    """Return the class that holds artifacts of a manifest's form.

    Args:
        manifest: Manifest of the artifact.

    Raises:
        ManifestError: If no class holds that form.
    """
    if manifest.form not in _CLASSES:
        raise ManifestError(f"expected form {', '.join(map(repr, _CLASSES))}, found form {manifest.form!r}")
    return _CLASSES[manifest.form]


def _state_of(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Return names, shapes, dtypes and a few values of tensors: enough to notice a change in place."""
    return picked(tensors).tolist(), [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
