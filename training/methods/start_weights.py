"""Weights that a training begins at: those of an earlier erasure on the same base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import Sketch, compare, content_sha256, sketch
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.overlays.delta import misfits, replace_parameters

from ..diffusion.backbone import Backbone
from ..trainer.unet_parameters import trainable_unet
from ..types import Component, Edit
from .student import Student
from .terms import TermsMethod, student_of

if TYPE_CHECKING:
    from robust_encoders.artifact.base import Base

_FORMS: Mapping[Component, str] = {"unet": "delta", "text_encoder": "weights", "text_encoder_2": "weights"}


@dataclass(frozen=True)
class StartWeights:
    """Tensors of an earlier erasure, and what the manifest records about them.

    Args:
        tensors: Tensors by name, as ``Edit`` has them.
        record: Record for the manifest.
    """

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]

    @classmethod
    def of(cls, edit: Edit) -> StartWeights:
        """Return the weights of an erasure of the same run."""
        return cls(edit.tensors, edit.log)

    @classmethod
    def read(cls, name: str, component: Component, backbone: Backbone) -> StartWeights:
        """Load an artifact, and check that it changes this component of this base.

        Args:
            name: Folder of the artifact, or a name that ``RobustEncoder.from_pretrained`` knows.
            component: Component that it must change.
            backbone: Base of the run.

        Raises:
            ValueError: If the artifact has another form or component, or was made from another base.
            RobustEncodersError: If the artifact cannot be loaded.
        """
        from robust_encoders import RobustEncoder

        found = RobustEncoder.from_pretrained(name)
        manifest, form = found.manifest, _FORMS[component]
        if (manifest.form, manifest.component) != (form, component):
            raise ValueError(
                f"expected an artifact of form {form!r} of the {component} in start_from, found {name!r} of form "
                f"{manifest.form!r} of the {manifest.component}: give one that ESD made with the same component"
            )
        _require_base(name, manifest.base, backbone)
        return cls(found.tensors, {"source": name, "content_sha256": content_sha256(found.tensors)})


def _require_base(name: str, base: Base, backbone: Backbone) -> None:
    ours: dict[str, tuple[Sketch | None, Mapping[str, Tensor]]] = {
        "text_encoder": (base.text_encoder, nested_state(backbone.text_encoder)),
        "unet": (base.unet, backbone.unet.state_dict()),
    }
    others = [
        part
        for part, (recorded, state) in ours.items()
        if recorded is not None and compare(sketch(state), recorded).kind == "differs"
    ]
    if others:
        raise ValueError(
            f"expected a start_from that was made from this base, found {name!r} from another {', '.join(others)}: "
            "train the start on this base"
        )


@torch.no_grad()
def student_at(start: StartWeights, method: TermsMethod, teacher: Backbone) -> tuple[Student, dict[str, Tensor]]:
    """Return a student at the start's weights, and those tensors of the start that stay as they are.

    Args:
        start: Weights that the training begins at.
        method: Settings that choose the component and its parameters.
        teacher: Frozen base; it stays unchanged.

    Raises:
        ValueError: If the weights do not fit the component.
    """
    if method.component == "text_encoder":
        student = student_of(method, teacher)
        state = nested_state(student.module)
        if state.keys() != start.tensors.keys():
            raise ValueError(
                f"expected a start with the {len(state)} tensors of this text encoder, found "
                f"{len(start.tensors)} tensors, others: train the start on this base"
            )
        for name, tensor in state.items():
            tensor.copy_(start.tensors[name])
        return student, {}
    if odd := misfits(teacher.unet, start.tensors):
        raise ValueError(
            f"expected a start for this UNet, found {len(odd)} tensors that do not fit ({odd[0]}): train the start on "
            "this base"
        )
    backbone, parameters = trainable_unet(teacher, method.unet)
    kept = {name: tensor for name, tensor in start.tensors.items() if name not in parameters}
    for name, tensor in start.tensors.items():
        if name in parameters:
            parameters[name].copy_(tensor)
    replace_parameters(backbone.unet, kept)
    return Student(backbone, backbone.unet, parameters), kept
