"""The errors that this package raises on purpose; each message says what was expected, what was found, what to do.

``IncompatibleError`` stands beside the report that it carries, in :mod:`robust_encoders.compatibility.report`.
"""

from __future__ import annotations


class RobustEncodersError(Exception):
    """Base of all errors of this package."""


class ManifestError(RobustEncodersError):
    """A ``robust_encoder.json`` is missing, malformed or of another schema; the message lists every problem."""


class CardError(RobustEncodersError):
    """A model card that is there already cannot be read, so it cannot be merged."""


class IntegrityError(RobustEncodersError):
    """Weights do not match what the manifest or the configuration says about them."""


class UnknownNameError(RobustEncodersError):
    """A name is neither embedded, nor in the catalog, nor a folder, nor a repository on the Hub."""


class NotPinnedError(RobustEncodersError):
    """Nothing is pinned at a place whose pin was to be removed."""


class DownloadError(RobustEncodersError):
    """The Hub did not deliver a file: offline, gated, wrong revision, or no such file."""


class PushError(RobustEncodersError):
    """The Hub did not take a push: offline, no permission, changed meanwhile, or cut off."""


class AssetsMissingError(RobustEncodersError, FileNotFoundError):
    """The package was installed without its embedded base, encoders or judge."""


class BaseLoadError(RobustEncodersError):
    """A base pipeline is not where its name says, or diffusers cannot load it."""


class ConversionNeededError(RobustEncodersError):
    """The weights exist only in a format that this version does not read."""


class AlreadyAttachedError(RobustEncodersError):
    """The pipeline already carries another robust encoder."""


class StaleAttachmentError(RobustEncodersError):
    """The attached encoder was replaced by someone else, so putting the original back would undo their change."""


class UnsavableError(RobustEncodersError):
    """A component that carries an adapter or a projection was to be saved without it."""


class CompatibilityWarning(UserWarning):
    """An encoder fits a pipeline, but something about the pair was never measured or will be lost."""
