"""Attaching of an artifact to copies of the CLIP and the MODEL of a ComfyUI graph; the connected ones do not change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_encoders.artifact.reader import Artifact
from robust_encoders.conversion.export_changes import Changes, changes_of
from robust_encoders.conversion.precision import cast
from robust_encoders.errors import IntegrityError
from robust_encoders.integrations.comfyui.checks import check
from robust_encoders.integrations.comfyui.connected import Connected
from robust_encoders.integrations.comfyui.patched import ArtifactPatch, Patched
from robust_encoders.integrations.comfyui.status import Status
from robust_encoders.integrations.comfyui.subject import Subject
from robust_encoders.loaded import LoadedArtifact

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Attached:
    """Result of attaching.

    Args:
        clip: CLIP with the artifact; the connected one if the artifact changes the UNet alone.
        model: MODEL with the artifact; the connected one, or None, if the artifact changes the text encoder alone.
        status: Facts to show on the node.
    """

    clip: Any
    model: Any
    status: Status


def attach(loaded: LoadedArtifact, clip: Any, model: Any = None, *, allow_partial: bool = False) -> Attached:
    """Attach an artifact to copies of the models of a graph.

    A copy shares its module with the connected models. ComfyUI sets the changed weights when it computes with the copy,
    and puts the stored ones back before it computes with the connected models. An artifact that is attached already is
    not attached again, to neither model.

    Args:
        loaded: Whole text encoder, projection, adapter or delta. An adapter gets a constant gate of 1, a projection is
            multiplied into the key and value matrices of the UNet.
        clip: ComfyUI's CLIP.
        model: ComfyUI's MODEL; needed for all forms that change the UNet.
        allow_partial: True if the caller accepts that other text encoders of the CLIP stay as they are.

    Raises:
        IncompatibleError: If the artifact does not fit; the message names every reason.
        IntegrityError: If the UNet has other tensors than the artifact needs, or ComfyUI refuses a patch.
    """
    models = Connected(clip, model, loaded.config.get("num_hidden_layers"), loaded.manifest.component)
    artifact = Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)
    subject = Subject(artifact, models, allow_partial)
    tell = partial(Status, loaded.label, loaded.source, loaded.identity, subject)
    there = [loaded.identity in weights.attached() for weights, _ in subject.places]
    if there and all(there):
        return Attached(clip, model, tell(already=True, warnings=_since(subject)))
    report = check(artifact, models, allow_partial=allow_partial)
    report.raise_if_incompatible()
    changes = changes_of(artifact, models)
    patch = partial(ArtifactPatch, identity=loaded.identity, label=loaded.label, concept=loaded.manifest.concept.name)
    text = {} if loaded.identity in models.text.attached() else _new_text(changes, models)
    unet = {} if loaded.identity in models.unet.attached() else _new_unet(changes, models)
    attached = Attached(
        _copied(clip, "patcher", {key: patch(value) for key, value in text.items()}),
        _copied(model, "", {key: patch(value) for key, value in unet.items()}),
        tell(notes=changes.notes, warnings=tuple(map(str, report.warnings))),
    )
    logger.info("attached %s", loaded.label)
    return attached


def _since(subject: Subject) -> tuple[str, ...]:
    changed = subject.patched_by_others()
    return (f"a LoRA or a merge after it changes {len(changed)} of its weights",) if changed else ()


def _new_text(changes: Changes, models: Connected) -> dict[str, Tensor]:
    keys, present = models.text_keys, models.text
    return {keys[name]: _stored_like(keys[name], value, present) for name, value in changes.text.items()}


def _new_unet(changes: Changes, models: Connected) -> dict[str, Tensor]:
    keys, present = models.unet_keys, models.unet
    return {
        keys[name]: _stored_like(keys[name], change(models.unet_tensor(name)), present)
        for name, change in changes.unet.items()
    }


def _stored_like(key: str, value: Tensor, present: Patched) -> Tensor:
    """Return a value in the precision of the weight that it replaces, in which ComfyUI would store it anyway."""
    dtype = present.stored(key).dtype
    return cast(key, value.detach(), dtype, Path(key)) if dtype.itemsize < value.dtype.itemsize else value.detach()


def _copied(model: Any, patcher: str, patches: Mapping[str, ArtifactPatch]) -> Any:
    if not patches:
        return model
    copy = model.clone()
    taken = (getattr(copy, patcher) if patcher else copy).add_patches(dict(patches))
    if missed := sorted(patches.keys() - set(taken)):
        raise IntegrityError(
            f"expected ComfyUI to take {len(patches)} patches, found {len(missed)} refused, the first of them "
            f"{missed[0]}; report this with the version of ComfyUI"
        )
    return copy
