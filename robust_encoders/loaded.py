"""An artifact in memory: what whole encoders, adapters and projections have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256, picked
from robust_encoders.artifact.forms import COMPONENTS
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.artifact.writer import provenance, save
from robust_encoders.compatibility.report import CompatReport
from robust_encoders.errors import IntegrityError, ManifestError
from robust_encoders.hub.catalog import announce
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.load import load
from robust_encoders.hub.upload import PushOptions, publish, workplace
from robust_encoders.pipeline.status import Status, status

Pipeline = TypeVar("Pipeline")
_CLASSES: dict[str, type[LoadedArtifact]] = {}


class LoadedArtifact(ABC):
    """Manifest, tensors and configuration of an artifact; a subclass says which forms it holds and how it attaches.

    Args:
        manifest: Origin and facts of the artifact.
        tensors: Names to finite tensors; shared, not copied.
        config: Configuration that belongs to the tensors.

    Raises:
        ManifestError: If the manifest is of a form that this class does not hold.
        IntegrityError: Naming every tensor that does not belong to that form and configuration.
    """

    forms: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[str] = ""

    def __init_subclass__(cls, *, forms: tuple[str, ...] = (), expected: str = "", **kwargs: Any) -> None:
        """Register a class for the forms that it holds.

        Args:
            forms: Forms of a manifest; none for a class that inherits those of its parent.
            expected: These forms in words, for the message that refuses others.
            kwargs: Arguments of other base classes.
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
        self.tensors: Mapping[str, Tensor] = {name: tensors[name].detach() for name in sorted(tensors)}
        self.config: Mapping[str, Any] = self._configured(config)
        self._taken = _state_of(self.tensors)
        self.source = ""

    @staticmethod
    @abstractmethod
    def _require_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None: ...

    @staticmethod
    @abstractmethod
    def _configured(config: Mapping[str, Any]) -> Mapping[str, Any]: ...

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
        dtype: torch.dtype | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> LoadedArtifact:
        """Load an encoder, an adapter or a projection, and verify every byte of it against its manifest.

        Names resolve in this order: ``shapes/...`` (inside the package), the catalog, an existing folder, ``org/name``
        on the Hub.

        Args:
            name_or_path: Name or folder of the artifact.
            subfolder: Subfolder of the folder or repository.
            revision: Branch, tag or commit of the repository.
            variant: Load ``model.<variant>.safetensors``.
            dtype: Precision to cast to; by default as stored.
            cache_dir: Folder where downloads are kept.
            token: Token for private and gated repositories.
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
            A :class:`RobustEncoder`, or an :class:`Overlay` if the artifact is an adapter or a projection.
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
        loaded = class_of(found.artifact.manifest)._verified(found.artifact)
        loaded = loaded if dtype is None else loaded._cast(dtype)
        loaded.source = found.source
        return loaded

    @classmethod
    def _verified(cls, artifact: Artifact) -> Self:
        """Return one of what was checked while it was read, without checking it all again."""
        cls._require_form(artifact.manifest)
        made = cls.__new__(cls)
        made._take(artifact.manifest, artifact.tensors, artifact.config)
        made.__dict__["content_sha256"] = artifact.content_sha256  # where cached_property looks first
        return made

    def _cast(self, dtype: torch.dtype) -> Self:
        # Checked anew: a large value may be infinite in half precision.
        cast = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        return self if dtype == self.dtype else type(self)(self.manifest, cast, self.config)

    @property
    def label(self) -> str:
        """Concept and method in words."""
        return f"{self.manifest.concept.name!r} erased by {self.manifest.method['name']}"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the tensors."""
        return next(iter(self.tensors.values())).dtype

    @cached_property
    def content_sha256(self) -> str:
        """Hash of names, dtypes, shapes and bytes of the tensors: what makes this artifact this one."""
        return content_sha256(self.tensors)

    @property
    def provenance(self) -> dict[str, Any]:
        """What an attached or saved text encoder says about itself, as ``config.robust_encoders``."""
        return provenance(self.manifest, self.content_sha256)

    def _require_unchanged(self) -> None:
        if _state_of(self.tensors) != self._taken:
            raise IntegrityError(
                f"expected the tensors of {self.label} as they were loaded, found them changed in place, by "
                "training or by a LoRA fused into an attached pipeline perhaps; load the encoder again"
            )

    @abstractmethod
    def check(self, pipe: Any, *, allow_partial: bool = False) -> CompatReport:
        """Ask whether it fits a pipeline, and change nothing.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: Accept that other text encoders of the pipeline stay as they are.
        """

    @abstractmethod
    def attach(self, pipe: Pipeline, *, allow_partial: bool = False, replace: bool = False) -> Pipeline:
        """Put it into a pipeline, all or nothing, and return the same pipeline.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: Accept, with a warning, that other text encoders of the pipeline stay as they are.
            replace: Take the place of others of its kind.

        Raises:
            IncompatibleError: Naming every reason why it does not fit.
            AlreadyAttachedError: If what is attached forbids it.
            StaleAttachmentError: If what is attached was replaced or changed since.
        """

    @abstractmethod
    def detach(self, pipe: Any) -> None:
        """Take it out of a pipeline; one that it was never attached to stays as it is.

        Args:
            pipe: A diffusers pipeline.

        Raises:
            StaleAttachmentError: If what is attached was replaced or changed since.
        """

    @abstractmethod
    def attached(
        self, pipe: Pipeline, *, allow_partial: bool = False, replace: bool = False
    ) -> AbstractContextManager[Pipeline]:
        """Attach for the length of a ``with`` block, then restore what was there before it.

        Args:
            pipe: A diffusers pipeline.
            allow_partial: As in :meth:`attach`.
            replace: As in :meth:`attach`.
        """

    @staticmethod
    def status(pipe: Any) -> Status:
        """Return what a pipeline carries.

        Args:
            pipe: A diffusers pipeline.
        """
        return status(pipe)

    def save_pretrained(self, directory: str | Path) -> Manifest:
        """Write the artifact: manifest, weights, their configuration if they need one, and model card; all or nothing.

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
            IntegrityError: If the tensors were changed in place since they were loaded.
        """
        self.manifest = self._saved(directory)
        return self.manifest

    def _saved(self, directory: str | Path) -> Manifest:
        self._require_unchanged()
        return save(directory, self.manifest, self.tensors, {**self.config, "robust_encoders": self.provenance})

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
        """Publish the artifact on the Hub, all its files and the model card in one commit.

        In a card that is there already, everything but our own part and facts is kept.

        Args:
            repo_id: ``org/name``, made if need be.
            private: Visibility of the repository; None leaves it to the Hub's default, or as it is.
            token: Token with write permission; by default the one that was logged in with.
            revision: Branch, made if need be.
            commit_message: Message of the commit; by default the label of the artifact.
            create_pr: Propose the commit to a repository that is there, instead of making it.

        Returns:
            URL of the commit, or of the pull request.

        Raises:
            PushError: If the Hub does not take it, or the repository is not as private as asked.
            CardError: If the card on the Hub has metadata that cannot be read.
            ManifestError: If the manifest holds a value that JSON cannot.
            IntegrityError: If the tensors were changed in place since they were loaded.
        """
        options = PushOptions(
            private=private, token=token, revision=revision, commit_message=commit_message, create_pr=create_pr
        )
        with workplace() as folder:
            return publish(folder / "artifact", self._saved(folder / "artifact"), repo_id, options)


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
    """Return names, shapes, dtypes and some values: enough to see that tensors were changed in place."""
    return picked(tensors).tolist(), [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
