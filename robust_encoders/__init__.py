"""Text encoders for Stable Diffusion that are hardened against concept revival.

``RobustEncoder.from_pretrained("shapes/circle").attach(pipe)`` puts one into a diffusers pipeline, or says why it does
not fit. Training and evaluation live in ``robust_encoders.training``, which nothing here imports.

Rooms, from top to bottom; each reads only from those below it:

- ``cli``: the commands; those of training are handed on.
- ``encoder``, ``overlay``: whole encoders, and adapters and projections, each with its way to attach.
- ``loaded``: the base of both, an artifact in memory: load, save, push, status.
- ``hub``: from a name to verified files: catalog, downloads, pins, trust; uploads; pipelines.
- ``compatibility``: the checks whether an artifact fits a pipeline, and their report.
- ``pipeline``: components exchanged, overlays composed, and everything put back.
- ``conversion``: from the formats of others to an artifact.
- ``artifact``: manifest, files, fingerprints and model card.
- ``overlays``: the arithmetic of adapters and projections.
- ``clip``: layouts of a CLIP text encoder, and models made of tensors.
- ``concepts``, ``utils``, ``errors``: read by all rooms.
"""

from importlib.metadata import version

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import FileRecord, Manifest
from robust_encoders.compatibility.report import Check, CompatReport, IncompatibleError
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.errors import (
    AlreadyAttachedError,
    AssetsMissingError,
    BaseLoadError,
    CardError,
    CompatibilityWarning,
    ConversionNeededError,
    DownloadError,
    IntegrityError,
    ManifestError,
    NotPinnedError,
    PushError,
    RobustEncodersError,
    StaleAttachmentError,
    UnknownNameError,
    UnsavableError,
)
from robust_encoders.hub.catalog import CATALOG, CatalogEntry
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.overlay import Overlay
from robust_encoders.pipeline.status import Status

__all__ = [
    "CATALOG",
    "AlreadyAttachedError",
    "AssetsMissingError",
    "Base",
    "BaseLoadError",
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
    "LoadedArtifact",
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
