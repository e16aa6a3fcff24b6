"""The files of a diffusers pipeline: which variant of its weights can be loaded, and which are pickles alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robust_encoders.errors import BaseLoadError
from robust_encoders.redaction import get_logger

logger = get_logger(__name__)
INDEX_NAME = "model_index.json"
# Names of weights, with a variant before or (in older files) behind the number of a part.
_WEIGHTS = re.compile(
    r"(?:model|pytorch_model|diffusion_pytorch_model)(?:\.(?P<variant>[A-Za-z]\w*))?(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<older>[A-Za-z]\w*))?\.(?P<kind>safetensors|bin)"
)
_PREFERRED = ("fp16", "bf16")


class _Weights(NamedTuple):
    """One file of weights: its variant, empty for the plain file, and its format."""

    variant: str
    kind: str


def read_index(path: Path) -> Mapping[str, Any]:
    """Return the content of a ``model_index.json``.

    Args:
        path: Path of the file.

    Raises:
        BaseLoadError: If the file is not readable, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseLoadError(
            f"expected the list of a pipeline's components in {path}, cannot read it: {error}"
        ) from error
    if not isinstance(found, dict):
        raise BaseLoadError(f"expected a JSON object in {path}, found {type(found).__name__}; restore the file")
    return found


def files_of(folder: Path) -> list[str]:
    """Return the files of a pipeline's folder and of the folders of its components, as paths inside of it."""
    return [path.relative_to(folder).as_posix() for depth in ("*", "*/*") for path in folder.glob(depth)]


def variant_of(
    index: Mapping[str, Any], names: Collection[str], where: str, *, without: Collection[str] = (), safe: bool = False
) -> str | None:
    """Return the variant that diffusers must be asked for, because some component has no plain weights.

    Args:
        index: Content of ``model_index.json``.
        names: Files of the pipeline.
        where: Place of the pipeline, for messages.
        without: Names of components that are not loaded.
        safe: True to accept safetensors only.

    Returns:
        Name of the variant, for example ``fp16``; None if all components have plain weights.

    Raises:
        BaseLoadError: If a component has no weights but pickles and ``safe`` is true, or if no variant serves all
            components without plain weights.
    """
    parts = {name: weights for name, weights in _parts(index, names).items() if name not in without}
    usable = {
        name: {one.variant for one in weights if one.kind == "safetensors" or not safe}
        for name, weights in parts.items()
    }
    if pickled := [name for name, variants in usable.items() if not variants]:
        raise BaseLoadError(_pickles(where, pickled))
    lacking = {name: variants for name, variants in usable.items() if "" not in variants}
    if not lacking:
        return None
    common = set.intersection(*lacking.values())
    if not common:
        found = "; ".join(f"{name}: {', '.join(sorted(variants))}" for name, variants in sorted(lacking.items()))
        raise BaseLoadError(
            f"expected weights of one variant for all components of {where}, found no common one ({found}); save the "
            "pipeline again with plain names: pipe.save_pretrained(FOLDER)"
        )
    chosen = min(common, key=lambda name: (_PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED), name))
    logger.info("%s: %s only as the variant %s, which is loaded", where, ", ".join(sorted(lacking)), chosen)
    return chosen


def _parts(index: Mapping[str, Any], names: Collection[str]) -> dict[str, set[_Weights]]:
    """Return the weights of each component of the index that has a file of weights."""
    found: dict[str, set[_Weights]] = {}
    for name in names:
        component, _, file = name.partition("/")
        match = _WEIGHTS.fullmatch(file)
        if match and _is_present(index.get(component)):
            weights = _Weights(match["variant"] or match["older"] or "", match["kind"])
            found.setdefault(component, set()).add(weights)
    return found


def _is_present(entry: Any) -> bool:
    """Return true for a component that the pipeline has; ``[null, null]`` stands for an empty slot."""
    return isinstance(entry, (list, tuple)) and all(part is not None for part in entry)


def _pickles(where: str, components: list[str]) -> str:
    code = f"from diffusers import DiffusionPipeline as P; P.from_pretrained({where!r}).save_pretrained('FOLDER')"
    return (
        f"expected a complete pipeline with safetensors in {where}, found pickles alone for {', '.join(components)}, "
        "which can run any program while they are read; name a base with safetensors, or, if you trust these files, "
        f'make a copy with `python -c "{code}"` and pass that FOLDER'
    )
