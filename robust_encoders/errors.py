"""The errors that this package raises on purpose. Each message says what was expected, what was found and what to do.

``IncompatibleError`` is defined with the report that it carries, in :mod:`robust_encoders.compatibility.report`.
"""

from __future__ import annotations

from collections.abc import Sequence

from robust_encoders.redaction import redacted


class RobustEncodersError(Exception):
    """Base class of all errors of this package; tokens and signed addresses in its texts are hidden.

    Args:
        args: Message of the error, and other values.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(value) if isinstance(value, str) else value for value in args))


class ManifestError(RobustEncodersError):
    """A manifest, ``robust_encoder.json``, is missing, malformed or of another schema; the message lists all faults."""


class CardError(RobustEncodersError):
    """An existing model card cannot be read, so the new one cannot be merged into it."""


class IntegrityError(RobustEncodersError):
    """Weights do not match the manifest or the configuration that describes them."""


class UnknownNameError(RobustEncodersError):
    """A name is unknown: it is not embedded, not in the catalog, no folder and no repository on the Hub."""


class NotPinnedError(RobustEncodersError):
    """A pin was to be removed, but nothing is pinned at that place."""


class DownloadError(RobustEncodersError):
    """The Hub did not deliver a file: no connection, a wrong token, a gated repository, or no such revision or file."""


class PushError(RobustEncodersError):
    """An artifact was not pushed: facts are missing, or the Hub refused it, or the connection broke off."""


class AssetsMissingError(RobustEncodersError, FileNotFoundError):
    """The package was installed without its embedded base pipeline, encoders or classifier."""


class TrainingError(RobustEncodersError, RuntimeError):
    """A training run cannot go on; the message names the way on."""


class BaseLoadError(RobustEncodersError):
    """A base pipeline does not exist at the given place, or diffusers cannot load it."""


class DeviceError(BaseLoadError):
    """A device is not on this machine, or this build of torch cannot use it."""


class BrokenLibraryError(RobustEncodersError):
    """An installed library cannot be imported, for example a torchvision that was built for another torch."""


class HomeError(RobustEncodersError):
    """The user has no home directory, or the package's own folder cannot be written."""


class ConversionNeededError(RobustEncodersError):
    """The weights exist only in a format that this version does not read."""


class NotReadyError(RobustEncodersError):
    """Something that the end of a long run needs is missing at its beginning; the message lists everything."""

    @classmethod
    def of(cls, problems: Sequence[str]) -> NotReadyError:
        """Return the error for problems, one a line if there are several.

        Args:
            problems: Problems, at least one; each says what was expected, what was found and what to do.
        """
        listed = list(dict.fromkeys(problems))
        if len(listed) == 1:
            return cls(listed[0])
        return cls("\n".join([f"{len(listed)} things are missing or wrong:", *(f"- {one}" for one in listed)]))


class AlreadyAttachedError(RobustEncodersError):
    """The pipeline already carries a robust encoder or an overlay that forbids the requested change."""


class OpenScopeError(AlreadyAttachedError):
    """Another thread has a scope open on the pipeline, whose pictures the requested change would alter."""


class StaleAttachmentError(RobustEncodersError):
    """An attached component was changed by other code, so putting the original back would undo that change."""


class UnsavableError(RobustEncodersError):
    """A component that carries a live overlay was to be saved, which would lose the overlay."""


class CompatibilityWarning(UserWarning):
    """An encoder fits a pipeline, but one property of the pair was never measured, or something will be lost.

    Args:
        args: Message of the warning, in which tokens and signed addresses are hidden.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(value) if isinstance(value, str) else value for value in args))
