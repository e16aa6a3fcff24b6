"""Run of a recipe, from a pipeline to a saved artifact."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Generator

from robust_encoders.utils.home import expanded, expanded_or_none
from robust_encoders.utils.text_lists import require_texts

from ..artifact import to_encoder
from ..diffusion.two_encoders import backbone_of
from ..distributed import Shard
from ..protocols import DistributedMethod, WorkspaceMethod
from ..trackers import Trackers, TrackingConfig
from ..types import Edit
from ..workspace import Workspace
from .effect import warn_if_unmoved
from .preflight import require_ready
from .recipe import Recipe
from .short import with_fitting_banks

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

logger = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    pipe: Any,
    out: str | Path,
    *,
    resume: bool = True,
    cache_dir: str | Path | None = None,
    every: int = 50,
    progress: bool = True,
    micro_batch: int | None = None,
    gradient_checkpointing: bool = False,
    trackers: Trackers | TrackingConfig | None = None,
    base_ids: tuple[str, ...] = (),
    base_revision: str = "",
) -> LoadedArtifact:
    """Erase the concept, save the encoder, and return it.

    Under ``accelerate launch`` or ``torchrun`` every process draws as many rows as the recipe says. The manifest
    records the batch sizes of all processes together. With these batch sizes, one process gives the same encoder up to
    rounding. The exceptions are ``hardening.candidates`` and ``hardening.neighbours_weight``, with which each process
    chooses among its own rows.

    Args:
        recipe: Run to carry out.
        pipe: Pipeline of the base; it stays unchanged.
        out: Folder of the artifact. Beside it, ``<out>.work`` holds checkpoints until the run is done.
        resume: Switch that continues from the newest checkpoint.
        cache_dir: Parent folder of trajectory banks, shared between runs. None keeps them in ``<out>.work``, which is
            deleted after the run.
        every: Number of iterations between checkpoints.
        progress: Switch that shows progress bars.
        micro_batch: Largest number of latents in the UNet at once while gradients are computed; None takes all.
        gradient_checkpointing: Switch that computes activations twice instead of keeping them (activation
            checkpointing). It needs less memory and more time.
        trackers: Experiment trackers, which get the settings and the losses of every iteration. A ``TrackingConfig``
            is started and closed here.
        base_ids: Hub ids of ``pipe``, for the manifest.
        base_revision: Commit of the first of ``base_ids``.

    Raises:
        NotReadyError: If the run lacks something that it needs until its end; the message lists everything.
        TrainingError: If the checkpoint belongs to another run, or if the loss is not finite.
        TrackerError: If a tracker cannot be used or does not start.
    """
    out = expanded(out)
    work = _work_of(out)
    workspace = Workspace(
        folder=work / "checkpoints",
        cache_dir=expanded_or_none(cache_dir) or work / "bank",
        every=every,
        resume=resume,
        progress=progress,
        micro_batch=micro_batch,
        gradient_checkpointing=gradient_checkpointing,
    )
    require_texts("base_ids", base_ids)
    require_ready(recipe, pipe, out, workspace)
    recipe = for_processes(recipe, Shard.current().count)
    with _tracked(trackers, recipe, out) as running:
        return _carried_out(recipe, pipe, out, replace(workspace, trackers=running), (base_ids, base_revision))


def _carried_out(
    recipe: Recipe, pipe: Any, out: Path, workspace: Workspace, origin: tuple[tuple[str, ...], str]
) -> LoadedArtifact:
    """Erase the concept, and let the main process save the artifact; ``origin`` is ids and commit of the base."""
    shard = Shard.current()
    with _placed(pipe, shard):
        encoder = _artifact(_erased(recipe, pipe, workspace), recipe, pipe, *origin)
    if shard.main:
        _finish(encoder, recipe.name, out)
        warn_if_unmoved(encoder, pipe, recipe.concept)
    shard.wait()
    return encoder


@contextmanager
def _tracked(trackers: Trackers | TrackingConfig | None, recipe: Recipe, out: Path) -> Iterator[Trackers]:
    """Start trackers unless they run already, and log the recipe's settings."""
    if isinstance(trackers, TrackingConfig):
        with trackers.started(run_name(out)) as running:
            running.settings(recipe)
            yield running
    else:
        running = trackers or Trackers()
        running.settings(recipe)
        yield running


def run_name(out: Path) -> str:
    """Return the name of a run for trackers: that of its folder."""
    return out.resolve().name or "run"


def _work_of(out: Path) -> Path:
    """Return the folder of checkpoints beside the folder of the artifact."""
    return out.with_name(f"{out.name}.work")


def _finish(encoder: LoadedArtifact, name: str, out: Path) -> None:
    """Save the artifact, and remove the folder of its checkpoints."""
    encoder.save_pretrained(out)
    if (work := _work_of(out)).exists():
        shutil.rmtree(work)
    logger.info("saved %s: %s", name, out)


def _erased(recipe: Recipe, pipe: Any, workspace: Workspace) -> Edit:
    component = getattr(recipe.method, "component", "text_encoder")
    backbone, generator = backbone_of(pipe, component), Generator().manual_seed(recipe.seed)
    method = with_fitting_banks(recipe.method, recipe.concept)
    if isinstance(method, WorkspaceMethod):
        return method.erase(backbone, recipe.concept, generator=generator, workspace=workspace)
    return method.erase(backbone, recipe.concept, generator=generator)


def _artifact(edit: Edit, recipe: Recipe, pipe: Any, ids: tuple[str, ...], revision: str) -> LoadedArtifact:
    found = {"found_synonyms": recipe.found_synonyms} if recipe.found_synonyms else {}
    return to_encoder(
        edit,
        concept=recipe.concept,
        method=recipe.method,
        pipe=pipe,
        recipe={"name": recipe.name, "seed": recipe.seed, **found},
        family=recipe.base,
        ids=ids,
        revision=revision,
        license=recipe.license,
    )


def for_processes(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe that n processes run together, with n times the batch sizes if the method can share them."""
    method = recipe.method
    return replace(recipe, method=method.for_processes(n)) if isinstance(method, DistributedMethod) else recipe


@contextmanager
def _placed(pipe: Any, shard: Shard) -> Iterator[None]:
    """Keep text encoders and UNet on this process's device inside the context; a single process moves nothing."""
    parts = (pipe.text_encoder, getattr(pipe, "text_encoder_2", None), pipe.unet)
    moved = [(part, part.device) for part in parts if part is not None and shard.count > 1]
    try:
        for part, _ in moved:
            part.to(shard.device)
        yield
    finally:
        for part, device in moved:
            part.to(device)
