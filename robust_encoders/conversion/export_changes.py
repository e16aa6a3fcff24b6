"""What an artifact changes in a base: tensors of the text encoder and of the UNet, under the names of diffusers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from robust_encoders.artifact.fingerprint import Sketch, compare, sketch
from robust_encoders.artifact.forms import adapter_of
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.clip.state_dict import PREFIX
from robust_encoders.conversion.export_stream import Change
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.adapters import DOWN, TEXT_PREFIX, UNET_PREFIX, UP, Adapter, joined
from robust_encoders.overlays.projection import PROJECTION_TENSOR, multiplied
from robust_encoders.overlays.values import shown

KEY_VALUE = re.compile(r".+\.attn2\.to_[kv]\.weight")
GATE = 1.0


class Host(Protocol):
    """A base into which an artifact is merged: a single file, the folder of a pipeline, or the models of a graph."""

    @property
    def path(self) -> Path | str:
        """Path of the base, or its name in words."""

    @property
    def unet_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the UNet's tensors, under the names of diffusers."""

    def text_encoder(self) -> dict[str, Tensor]:
        """Return the tensors of the text encoder, under ``text_model.*`` names."""

    def unet_tensor(self, name: str) -> Tensor:
        """Return one tensor of the UNet."""


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes of a base.

    Args:
        text: New text encoder, under ``text_model.*`` names; empty if it stays.
        unet: Changes of the UNet's tensors, under the names of diffusers; empty if it stays.
        notes: Differences from the base that the artifact was made for, in words.
    """

    text: Mapping[str, Tensor]
    unet: Mapping[str, Change]
    notes: tuple[str, ...]


def changes_of(artifact: Artifact, host: Host) -> Changes:
    """Return what an artifact changes in a base.

    Args:
        artifact: Whole text encoder, projection, adapter or delta.
        host: The base.

    Raises:
        IntegrityError: If the base has no tensors of these names and shapes; the message names the first of them.
    """
    form, state = artifact.manifest.form, host.text_encoder()
    notes = _notes(artifact.manifest, host, state)
    if form == "weights":
        return Changes(_whole(artifact, host, state), {}, notes)
    unet, problems = _UNET[form](artifact, host.unet_shapes)
    text, more = _adapted(artifact, state) if form == "adapter" else ({}, [])
    if problems or more:
        raise _misfit(artifact.manifest, host.path, "layers", [*problems, *more])
    return Changes(text, unet, notes)


def _whole(artifact: Artifact, host: Host, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    problems = [
        f"{name} of {_shape(state.get(name))} for {_shape(artifact.tensors.get(name))}"
        for name in sorted(state.keys() | artifact.tensors.keys())
        if _shape(state.get(name)) != _shape(artifact.tensors.get(name))
    ]
    if problems:
        raise _misfit(artifact.manifest, host.path, "text encoder", problems)
    return artifact.tensors


def _shape(tensor: Tensor | None) -> str:
    return "no shape" if tensor is None else str(tuple(tensor.shape))


def _misfit(manifest: Manifest, path: Path | str, what: str, problems: list[str]) -> IntegrityError:
    ids = f" ({', '.join(manifest.base.ids)})" if manifest.base.ids else ""
    return IntegrityError(
        f"expected the {what} of a base of family {manifest.base.family!r} in {path}, found {shown(problems)}: a model "
        f"of another family or size; pass a checkpoint of that base{ids}, or one that was fine-tuned from it"
    )


def _projected(artifact: Artifact, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Change], list[str]]:
    matrix = artifact.tensors[PROJECTION_TENSOR]
    width = matrix.shape[0]
    names = [name for name in shapes if KEY_VALUE.fullmatch(name)]
    problems = [f"{name} of {shapes[name]} for width {width}" for name in names if shapes[name][1:] != (width,)]
    if not names:
        problems = ["no key and value matrices of a cross-attention"]
    return {name: partial(_times, matrix=matrix) for name in names}, problems


def _times(weight: Tensor, matrix: Tensor) -> Tensor:
    return multiplied(weight, matrix)


def _replaced(artifact: Artifact, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Change], list[str]]:
    wrong = {name: tuple(tensor.shape) for name, tensor in artifact.tensors.items()}
    problems = [
        f"{name} of {shapes.get(name, 'no shape')} for {shape}"
        for name, shape in wrong.items()
        if shapes.get(name) != shape
    ]
    return {name: partial(_value, new=tensor) for name, tensor in artifact.tensors.items()}, problems


def _value(old: Tensor, new: Tensor) -> Tensor:
    return new.detach().cpu()


def _adapted_unet(artifact: Artifact, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Change], list[str]]:
    return _joined(adapter_of(artifact.tensors, artifact.config), UNET_PREFIX, shapes)


def _adapted(artifact: Artifact, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the text encoder with an adapter added, empty if the adapter does not lie on it, and the problems."""
    shapes = {name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in state.items()}
    changes, problems = _joined(adapter_of(artifact.tensors, artifact.config), TEXT_PREFIX, shapes)
    if not changes or problems:
        return {}, problems
    made = {PREFIX + name: change(state[PREFIX + name]).to(state[PREFIX + name]) for name, change in changes.items()}
    return {**state, **made}, []


def _joined(
    adapter: Adapter, prefix: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Change], list[str]]:
    stems = {name.removesuffix(".weight").replace(".", "_"): name for name in shapes if name.endswith(".weight")}
    changes: dict[str, Change] = {}
    problems = []
    for stem in adapter.stems(prefix):
        name, key = stems.get(stem), prefix + stem
        ends = (adapter.tensors[key + UP].shape[0], adapter.tensors[key + DOWN].shape[1])
        if name is None or shapes[name][:2] != ends or shapes[name][2:] not in ((), (1, 1)):
            problems.append(f"{stem} of {shapes[name] if name else 'no shape'} for {ends}")
            continue
        changes[name] = partial(_added, adapter=adapter, key=key)
    return changes, problems


def _added(weight: Tensor, adapter: Adapter, key: str) -> Tensor:
    return joined(weight, [adapter], key, [GATE])


_UNET: Mapping[str, Callable[[Artifact, Mapping[str, tuple[int, ...]]], tuple[dict[str, Change], list[str]]]] = {
    "projection": _projected,
    "delta": _replaced,
    "adapter": _adapted_unet,
}


def _notes(manifest: Manifest, host: Host, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return in what the base differs from the one that the artifact was made for, as far as sketches tell."""
    recorded, found = manifest.base, []
    if recorded.text_encoder and (kind := _difference(sketch(state), recorded.text_encoder)):
        found.append(f"the text encoder there {kind}")
    if recorded.unet and manifest.form != "weights" and recorded.unet.keys() <= host.unet_shapes.keys():
        made: Sketch = {name: sketch({name: host.unet_tensor(name)})[name] for name in recorded.unet}
        if kind := _difference(made, recorded.unet):
            found.append(f"the UNet there {kind}")
    return tuple(
        f"{one} from the base that the artifact was made for ({recorded.family}): how well it erases there was not "
        "measured"
        for one in found
    )


def _difference(found: Sketch, expected: Sketch) -> str:
    outcome = compare(found, expected)
    return str(outcome).replace(" (relative)", "") if outcome.kind == "differs" else ""
