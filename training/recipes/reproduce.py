"""Repetition of an artifact's training from its manifest, and comparison of the tensors."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import compare
from robust_encoders.errors import RobustEncodersError
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.encoder_names import refuse_names

from ..attacks import INNER_ATTACKS
from ..diffusion.load import UNetDtype
from ..methods import METHODS
from ..protocols import InnerAttack
from ..provenance import library_versions
from .recipe import Recipe
from .run import run_recipe

if TYPE_CHECKING:
    from robust_encoders.artifact.manifest import Manifest

T = TypeVar("T")


class CannotReproduceError(RobustEncodersError):
    """Error for a manifest that lacks what a second training run needs, or for another base; the message names it."""


@dataclass(frozen=True)
class Reproduction:
    """Result of comparing a second training run with the artifact.

    Args:
        expected: Content hash of the artifact's tensors.
        found: Content hash of the second run's tensors.
        largest: Largest absolute difference between two values; 0 if the runs agree.
        relative: Norm of all differences, divided by the norm of the change that the training made; 0 if the runs
            agree.
        versions: Libraries whose versions differ, with the version that made the artifact and the installed one.
    """

    expected: str
    found: str
    largest: float
    relative: float
    versions: Mapping[str, tuple[str, str]]

    @property
    def equal(self) -> bool:
        """True if all tensors are equal, bit for bit."""
        return self.expected == self.found

    def explain(self) -> str:
        """Return the outcome in words."""
        if self.equal:
            return f"equal, bit for bit: content hash {self.found}"
        others = [f"{name} {then} then, {now} now" for name, (then, now) in self.versions.items()]
        return (
            f"not equal: values differ by at most {self.largest:.3g}; the differences have {self.relative:.3g} times "
            f"the norm of the change that the training made. Versions that differ: {'; '.join(others) or 'none'}"
        )


def reproduce(
    encoder: LoadedArtifact,
    pipe: Any,
    *,
    out: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Reproduction:
    """Train again with the recorded method, settings and seed, and compare the tensors.

    Args:
        encoder: Artifact to reproduce.
        pipe: Pipeline of the base that the artifact was made from; it stays unchanged.
        out: Folder for the second run's artifact; None deletes it after the comparison.
        cache_dir: Parent folder of trajectory banks, shared between runs; None keeps none.
        progress: Switch that shows progress bars.

    Raises:
        CannotReproduceError: If the manifest lacks something or the base differs; the message names it.
        RuntimeError: If the training fails, see :func:`run_recipe`.
        EncoderNameError: If ``encoder`` is a name, not a loaded encoder.
    """
    refuse_names(encoder)
    recipe = recorded_recipe(encoder.manifest)
    _require_base(encoder.manifest, pipe)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "artifact" if out is None else out
        again = run_recipe(recipe, pipe, place, cache_dir=cache_dir, progress=progress)
    return compared(encoder, again, pipe)


def recorded_recipe(manifest: Manifest) -> Recipe:
    """Return the training run that a manifest records.

    Raises:
        CannotReproduceError: If the method is not one of this package, or if settings or seed are missing.
    """
    name, recipe = manifest.method["name"], manifest.recipe
    if name not in METHODS:
        raise CannotReproduceError(
            f"expected a method of this package ({', '.join(METHODS)}), found {name!r}; ask the authors how it was made"
        )
    if not isinstance(recipe.get("seed"), int) or not recipe.get("name"):
        raise CannotReproduceError(
            f"expected a recipe with a name and a seed, found {', '.join(recipe) or 'nothing'}; it cannot be run again"
        )
    return Recipe(
        name=str(recipe["name"]),
        concept=manifest.concept,
        method=_method(METHODS[name], manifest.method),
        seed=recipe["seed"],
        base=manifest.base.family,
        license=manifest.license,
        found_synonyms=dict(recipe.get("found_synonyms") or {}),
    )


def recorded_dtype(manifest: Manifest) -> UNetDtype:
    """Return the precision that the UNet had in memory when the artifact was made."""
    stored = {tensor.dtype for tensor in (manifest.base.unet or {}).values()}
    known: tuple[UNetDtype, ...] = get_args(UNetDtype)
    return next((name for name in known if {name} == stored), "float32")


def _method(kind: type[T], described: Mapping[str, Any]) -> T:
    try:
        return rebuilt(kind, described)
    except (TypeError, ValueError, KeyError) as error:
        raise _other_settings(str(error)) from error


def _other_settings(found: str) -> CannotReproduceError:
    return CannotReproduceError(
        f"expected the settings that this version knows, found others ({found}); install the version that made the "
        "artifact"
    )


def rebuilt(kind: type[T], described: Mapping[str, Any]) -> T:
    """Return the dataclass that :func:`robust_encoders.training.provenance.describe` described.

    Args:
        kind: Class of the result, a dataclass.
        described: Values of all fields, by field name; also ``name`` if the class has one. Fields with the metadata
            ``ADDED`` may be missing and then have their defaults.

    Raises:
        TypeError: If a field is missing, unknown or of another type, or if the name is another one.
        ValueError: If the dataclass refuses a value.
    """
    declared = fields(kind)  # type: ignore[arg-type]  # only dataclasses come here
    hints, known = get_type_hints(kind), {f.name for f in declared}
    added = {f.name for f in declared if f.metadata.get("added")}
    given, name = dict(described), getattr(kind, "name", None)
    if name is not None and "name" not in known and given.pop("name", None) != name:
        raise TypeError(f"a part with another name than {name!r}")
    if odd := (given.keys() - known) | (known - added - given.keys()):
        raise TypeError(f"fields that differ: {', '.join(sorted(odd))}")
    return kind(**{key: _value(hints[key], value) for key, value in given.items()})


def _value(hint: Any, value: Any) -> Any:
    if hint is InnerAttack and isinstance(value, Mapping) and value.get("name") in INNER_ATTACKS:
        return rebuilt(INNER_ATTACKS[value["name"]], value)
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return rebuilt(hint, value)
    if not _fits(hint, value):
        raise TypeError(f"{value!r} where {hint} belongs")
    if get_origin(hint) is tuple and is_dataclass(item := get_args(hint)[0]) and isinstance(item, type):
        return tuple(rebuilt(item, one) for one in value)
    return tuple(value) if isinstance(value, list) else value


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list)
    return type(value) is hint or (hint is float and type(value) is int)


def _require_base(manifest: Manifest, pipe: Any) -> None:
    recorded = manifest.base
    component = _text_component(manifest)
    if getattr(pipe, component, None) is None:
        raise CannotReproduceError(
            f"expected a base with a {component}, as the manifest records, found a {type(pipe).__name__} without; give "
            "the pipeline that the artifact was made from with --base FOLDER"
        )
    found = Base.from_pipeline(pipe, family=manifest.base.family, with_unet=True, component=component)
    verdicts = {
        part: compare(there, ours).kind
        for part in ("text_encoder", "unet")
        if (ours := getattr(recorded, part)) is not None and (there := getattr(found, part)) is not None
    }
    verdicts["tokenizer"] = "same" if recorded.tokenizer in (None, found.tokenizer) else "differs"
    if others := [part for part, verdict in verdicts.items() if verdict != "same"]:
        raise CannotReproduceError(
            f"expected the base that the manifest records (family {recorded.family!r}), found another "
            f"{', '.join(others)}; give the pipeline that the artifact was made from with --base FOLDER"
        )


def _text_component(manifest: Manifest) -> str:
    """Return the text encoder that an artifact was made from: its own component, or the first one."""
    return manifest.component if manifest.form == "weights" else "text_encoder"


def compared(encoder: LoadedArtifact, again: LoadedArtifact, pipe: Any) -> Reproduction:
    """Compare the tensors of two runs; ``pipe`` is the base of both."""
    start = _before(encoder, pipe)
    ours = {name: tensor.double() for name, tensor in encoder.tensors.items()}
    gaps = [again.tensors[name].double() - tensor for name, tensor in ours.items()]
    moved = [tensor - start[name] for name, tensor in ours.items()]
    then, now = encoder.manifest.versions, library_versions()
    return Reproduction(
        expected=encoder.content_sha256,
        found=again.content_sha256,
        largest=max(float(gap.abs().max()) for gap in gaps),
        relative=_norm(gaps) / max(_norm(moved), torch.finfo(torch.double).tiny),
        versions={name: (then[name], now[name]) for name in now if then.get(name, now[name]) != now[name]},
    )


def _before(encoder: LoadedArtifact, pipe: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that an artifact would have if training had changed nothing.

    Adapters and erasers start at random numbers that no artifact records. Zeros stand for them: they change nothing.
    """
    from robust_encoders.clip.state_dict import nested_state

    if encoder.manifest.form in ("adapter", "eraser"):
        return {name: torch.zeros_like(tensor, dtype=torch.double) for name, tensor in encoder.tensors.items()}
    if encoder.manifest.form == "projection":
        return {name: torch.eye(len(tensor), dtype=torch.double) for name, tensor in encoder.tensors.items()}
    if encoder.manifest.form == "delta":
        return {name: tensor.detach().cpu().double() for name, tensor in pipe.unet.named_parameters()}
    state = nested_state(getattr(pipe, _text_component(encoder.manifest)))
    return {name: tensor.cpu().double() for name, tensor in state.items()}


def _norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
