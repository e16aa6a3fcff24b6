"""Text encoders for Stable Diffusion that are hardened against concept revival.

``RobustEncoder.from_pretrained("shapes/circle").attach(pipe)`` puts such an encoder into a diffusers pipeline, or says
why it does not fit. Training and evaluation are in ``robust_encoders.training``, which this package never imports.

The rooms (subpackages and modules), from top to bottom. Each one imports only from those below it:

- ``cli``: the commands; training commands are handed on to ``robust_encoders.training``.
- ``integrations``: plug-ins for the programs of others, which import them.
- ``encoder``, ``overlay``: the two kinds of artifact, whole encoders and overlays (adapters, projections, deltas and
  erasers), and how each is attached.
- ``loaded``: their common base class, an artifact in memory: load, save, push, status.
- ``hub``: from a name to verified files: catalog, downloads, pins; uploads to the Hub; loading of pipelines.
- ``compatibility``: the checks that tell if an artifact fits a pipeline, and their report.
- ``pipeline``: exchanges components of a pipeline, composes overlays, and undoes both.
- ``conversion``: turns the weight formats of other projects into an artifact, and an artifact into files for them.
- ``artifact``: manifest, files, fingerprints and model card.
- ``overlays``: the arithmetic of adapters, projections, deltas and erasers.
- ``clip``: key layouts of a CLIP text encoder, and models built from tensors.
- ``concepts``, ``utils``, ``errors``: used by all rooms.
"""

import robust_encoders.utils.working_folder  # noqa: F401 - refuses a deleted folder before torch is imported there
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
    NotReadyError,
    OpenScopeError,
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
from robust_encoders.utils.versions import version

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
    "NotReadyError",
    "OpenScopeError",
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
