"""What the end of a training needs, asked at its beginning: folders, disk, packages, device, base, settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import GeneralTracker

from robust_encoders.artifact.target import target_problems
from robust_encoders.errors import NotReadyError
from robust_encoders.utils.extras import package_problems
from robust_encoders.utils.targets import DiskNeed, disk_problems, place_problems
from robust_encoders.utils.text_lists import file_name_problems, listed, single_text_problems

from ..diffusion.base_configs import BaseConfigs
from ..diffusion.base_kind import kind_problems
from ..diffusion.devices import device_problems
from ..protocols import Method, RetainingMethod, SlotMethod
from ..trackers import tracker_problems
from ..trainer.storage import StoringMethod, present
from ..workspace import Workspace
from .recipe import Recipe
from .short import with_fitting_banks

_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
# The seeds that a torch.Generator takes.
_SEEDS = range(-(2**63), 2**64)


@dataclass(frozen=True, kw_only=True)
class TrainingPlaces:
    """The folders of a run.

    Args:
        out: Folder of the artifact.
        cache_dir: Parent folder of trajectory banks; None keeps them in ``work``.
        tracker_dir: Folder of trackers that write files; None if there are no trackers.
        trackers: Names or objects of trackers.
    """

    out: Path
    cache_dir: Path | None = None
    tracker_dir: Path | None = None
    trackers: Sequence[str | GeneralTracker] = ()

    @property
    def work(self) -> Path:
        """Folder of checkpoints until the run is done."""
        return self.out.with_name(f"{self.out.name}.work")

    @property
    def bank(self) -> Path:
        """Parent folder of the trajectory banks."""
        return self.work / "bank" if self.cache_dir is None else self.cache_dir

    def problems(self) -> list[str]:
        """Return the reasons why the run cannot write its files."""
        found = target_problems(self.out)
        found += [] if found else place_problems(self.work)
        for folder in filter(None, (self.cache_dir, self.tracker_dir)):
            found += place_problems(folder)
        return [*found, *tracker_problems(self.trackers)]


def require_ready(recipe: Recipe, pipe: Any, out: Path, workspace: Workspace) -> None:
    """Check everything that a run needs until its end, before its first computation.

    Args:
        recipe: Run to carry out.
        pipe: Pipeline of the base.
        out: Folder of the artifact.
        workspace: Folders of the run.

    Raises:
        NotReadyError: If something is missing or wrong; the message lists everything.
    """
    places, configs = TrainingPlaces(out=out, cache_dir=workspace.cache_dir), BaseConfigs.of_pipeline(pipe)
    problems = [
        *places.problems(),
        *kind_problems(configs, two=True),
        *slot_problems(recipe.method, configs),
        *recipe_problems(recipe),
        *_placed_problems(recipe, pipe),
    ]
    if not problems:
        problems = disk_problems(disk_needs(recipe, pipe, places, workspace.every))
    if problems:
        raise NotReadyError.of(problems)
    for text in list_warnings(recipe):
        warnings.warn(text, stacklevel=3)


def slot_problems(method: Method, configs: BaseConfigs) -> list[str]:
    """Return the reasons why a method cannot train its component of a base with one or two text encoders.

    Args:
        method: Method with its settings.
        configs: Configurations of the base.
    """
    two = configs.has("text_encoder_2")
    if two and isinstance(method, SlotMethod):
        return method.slot_problems()
    if two:
        return [
            f"expected advunlearn, esd, hirm or s_grace on a base with two text encoders, found {method.name}, which "
            "cannot train one of two: choose one of these methods, or a base of Stable Diffusion 1 or 2"
        ]
    if not two and getattr(method, "component", "") == "text_encoder_2":
        return [
            f"expected a base with a text_encoder_2, as SDXL has, for component 'text_encoder_2', found "
            f"{configs.pipeline}: choose --component text_encoder, or a base of SDXL"
        ]
    return []


def recipe_problems(recipe: Recipe) -> list[str]:
    """Return what is wrong with a recipe itself: one string instead of several, a seed out of range, packages."""
    method = recipe.method
    problems = [*single_text_problems(method, "method"), *single_text_problems(recipe.concept, "concept")]
    problems += file_name_problems(method, "method")
    if isinstance(method, RetainingMethod) and isinstance(method.retained, str) and not problems:
        problems.append(f"expected several retain prompts, found one string, {method.retained[:60]!r}; write a tuple")
    if recipe.seed not in _SEEDS:
        problems.append(f"expected a seed from {_SEEDS[0]} to {_SEEDS[-1]}, found {recipe.seed}; choose another")
    return [*problems, *package_problems([(method.name, method)])]


def list_warnings(recipe: Recipe) -> Iterator[str]:
    """Yield one warning for each word of the concept that reads like a list."""
    parts = recipe.concept.parts or (recipe.concept,)
    for word in (word for part in parts for word in (*part.words(), part.anchor) if listed(word)):
        yield (
            f"{word!r} is one word or phrase of the concept, which reads like a list; for several concepts use "
            "Recipe.together (--also on the command line), for further words the concept's synonyms"
        )


def disk_needs(recipe: Recipe, pipe: Any, places: TrainingPlaces, every: int) -> list[DiskNeed]:
    """Return the space that a run takes, without what lies there already; empty for a method that does not tell.

    Args:
        recipe: Run to carry out.
        pipe: Pipeline of the base.
        places: Folders of the run.
        every: Number of iterations between checkpoints.
    """
    method, shape = recipe.method, BaseConfigs.of_pipeline(pipe).latent_shape
    if not isinstance(method, StoringMethod):
        return []
    stored = method.stored(recipe.concept)
    try:
        kept = max(0, stored.checkpoints(pipe, every) - present(places.work, "checkpoints/**/*.safetensors"))
        result = stored.artifact(pipe)
    except (AttributeError, ValueError):  # a selection that the model does not have is refused by the method itself
        kept = result = 0
    bank = [] if shape is None else bank_needs(recipe, shape, places)
    return [
        *bank,
        DiskNeed(places.work.parent, kept, "checkpoints"),
        DiskNeed(places.out.parent, result, "the artifact"),
    ]


def bank_needs(recipe: Recipe, latent_shape: tuple[int, ...], places: TrainingPlaces) -> list[DiskNeed]:
    """Return the space that the trajectories of a run take, without those that lie there already.

    Args:
        recipe: Run to carry out.
        latent_shape: Shape (C, h, w) of a latent.
        places: Folders of the run.
    """
    if not isinstance(recipe.method, StoringMethod):
        return []
    method: Any = with_fitting_banks(recipe.method, recipe.concept)
    size = method.stored(recipe.concept).bank(latent_shape) - present(places.bank)
    return [DiskNeed(places.bank, max(0, size), "trajectories")]


def dtypes_of(recipe: Recipe) -> list[str]:
    """Return the precisions that a run computes in besides that of the base, by their names in torch."""
    precision = getattr(getattr(recipe.method, "train", None), "precision", "fp32")
    return [_AUTOCAST[precision]] if precision in _AUTOCAST else []


def _placed_problems(recipe: Recipe, pipe: Any) -> list[str]:
    """Return the reasons why the pipeline's device does not compute in the recipe's precision."""
    parameter = next(iter(getattr(pipe.unet, "parameters", lambda: iter(()))()), None)
    if not isinstance(parameter, torch.Tensor):
        return []
    return device_problems(str(parameter.device), *dtypes_of(recipe))
