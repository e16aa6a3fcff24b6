"""What a training took, and the size of its artifact, from the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from typing import Self

COSTS_NAME = "training.json"


@dataclass(frozen=True)
class TrainingCosts:
    """What a training took, with the training that it started from.

    Args:
        form: Form of the artifact.
        component: Changed component.
        bytes: Size of the artifact's files, without its manifest.
        unet_calls: UNet forwards on one latent, without those of the bank of trajectories; None if not recorded.
        seconds: Seconds of the training loop, or of the solution in closed form; None if not recorded.
    """

    form: str
    component: str
    bytes: int
    unet_calls: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the costs that a manifest records."""
        run: Mapping[str, Any] = manifest.recipe.get("run") or {}
        start: Mapping[str, Any] = run.get("start") or {}
        seconds, calls = run.get("seconds", run.get("seconds_total")), run.get("unet_calls")
        return cls(
            form=manifest.form,
            component=manifest.component,
            bytes=sum(file.size for file in manifest.files.values()),
            unet_calls=None if calls is None else calls + start.get("unet_calls", 0),
            seconds=None if seconds is None else seconds + start.get("seconds", 0),
        )

    @classmethod
    def beside(cls, folder: Path) -> Self | None:
        """Return the costs that lie beside an evaluation: in the encoder's manifest, or in a copy of its record.

        Args:
            folder: Folder of the evaluation, with ``encoder/robust_encoder.json`` or ``training.json``.
        """
        if (folder / "encoder" / MANIFEST_NAME).is_file():
            return cls.of(Manifest.read(folder / "encoder"))
        if not (folder / COSTS_NAME).is_file():
            return None
        stored = json.loads((folder / COSTS_NAME).read_text(encoding="utf-8"))
        known = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        return cls(**known) if {"form", "component", "bytes"} <= known.keys() else None

    def record(self) -> dict[str, Any]:
        """Return the costs as JSON values."""
        return asdict(self)
