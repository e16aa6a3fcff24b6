"""Text encoders for Stable Diffusion that are hardened against concept revival.

``RobustEncoder.from_pretrained("shapes/circle").attach(pipe)`` puts one into a diffusers pipeline, or says why it does
not fit. Training and evaluation live in ``robust_encoders.training``, which nothing here imports.
"""

from importlib.metadata import version

from .attach import Status
from .base import Base
from .catalog import CATALOG, CatalogEntry
from .compat import Check, CompatReport
from .concepts import Concept
from .embedded import embedded_pipeline
from .encoder import RobustEncoder
from .errors import (
    AlreadyAttachedError,
    AssetsMissingError,
    CardError,
    CompatibilityWarning,
    ConversionNeededError,
    DownloadError,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    NotPinnedError,
    PushError,
    RobustEncodersError,
    StaleAttachmentError,
    UnknownNameError,
    UnsavableError,
)
from .manifest import FileRecord, Manifest
from .overlay import Overlay

__all__ = [
    "CATALOG",
    "AlreadyAttachedError",
    "AssetsMissingError",
    "Base",
    "CardError",
    "CatalogEntry",
    "Check",
    "CompatReport",
    "CompatibilityWarning",
    "Concept",
    "ConversionNeededError",
    "DownloadError",
    "FileRecord",
    "IncompatibleError",
    "IntegrityError",
    "Manifest",
    "ManifestError",
    "NotPinnedError",
    "Overlay",
    "PushError",
    "RobustEncoder",
    "RobustEncodersError",
    "StaleAttachmentError",
    "Status",
    "UnknownNameError",
    "UnsavableError",
    "__version__",
    "embedded_pipeline",
]

__version__ = version("robust-encoders")
