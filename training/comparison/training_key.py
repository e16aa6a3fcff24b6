"""The key of a finished training: its settings, base and seed, and the code that carried it out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import robust_encoders

from ..provenance import canonical_sha256, library_versions
from ..recipes.recipe import Recipe
from ..recipes.run_file import values_of

_TRAINING = Path(__file__).resolve().parents[1]
_LOADER = Path(robust_encoders.__file__).resolve().parent
# Rooms that run after a training, or around it.
_OTHER_ROOMS = ("app", "cli", "comparison", "detectors", "evaluation", "metrics", "reports")
_LOADER_ROOMS = ("artifact", "clip", "overlays")


@dataclass(frozen=True)
class TrainingKey:
    """The key of a training; two trainings of equal keys give the same artifact.

    Args:
        settings: Hash of recipe, seed, base and library versions.
        package: Hash of the content of this package, as far as trainings use it, and of the method's own file.
    """

    settings: str
    package: str

    @classmethod
    def of(cls, recipe: Recipe, base_sha256: str) -> TrainingKey:
        """Return the key of a recipe on a base.

        Args:
            recipe: Training run with its seed.
            base_sha256: Hash of the base's models.
        """
        run = [values_of(recipe), recipe.seed, base_sha256, library_versions()]
        return cls(canonical_sha256(run), canonical_sha256([_package_sha256(), _own_sha256(type(recipe.method))]))


@cache
def _package_sha256() -> str:
    """Return a hash of all modules of this package that a training can use."""
    ours = (path for path in _TRAINING.rglob("*.py") if path.relative_to(_TRAINING).parts[0] not in _OTHER_ROOMS)
    loader = (path for room in _LOADER_ROOMS for path in (_LOADER / room).rglob("*.py"))
    return _sha256([*ours, *loader])


def _own_sha256(method: type) -> str:
    """Return a hash of the file that defines a method, which may be of another package."""
    try:
        return _sha256([Path(inspect.getfile(method))])
    except (TypeError, OSError):  # made in an interactive session
        return ""


def _sha256(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
