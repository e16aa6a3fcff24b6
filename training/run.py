"""Run a recipe: from a pipeline to a saved artifact."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Generator

from .artifact import to_encoder
from .backbone import Backbone
from .finetune import Workspace
from .recipes import Recipe

if TYPE_CHECKING:
    from robust_encoders.encoder import RobustEncoder

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
    base_ids: tuple[str, ...] = (),
    base_revision: str = "",
) -> RobustEncoder:
    """Erase, save, and return the encoder.

    Args:
        recipe: The run.
        pipe: The base; left as it was.
        out: Folder of the artifact. Beside it, ``<out>.work`` holds checkpoints until the run is done.
        resume: Go on from the newest checkpoint.
        cache_dir: Parent of trajectory banks, shared between runs; by default ``<out>.work``, gone with it.
        every: Iterations between checkpoints.
        progress: Show progress bars.
        base_ids: Hub ids of ``pipe``, for the manifest.
        base_revision: Commit of the first of them.

    Raises:
        RuntimeError: The checkpoint belongs to another run, or the loss is not finite.
    """
    out = Path(out)
    work = out.with_name(f"{out.name}.work")
    workspace = Workspace(
        folder=work / "checkpoints",
        cache_dir=Path(cache_dir) if cache_dir is not None else work / "bank",
        every=every,
        resume=resume,
        progress=progress,
    )
    generator = Generator().manual_seed(recipe.seed)
    edit = recipe.method.erase(Backbone.from_pipeline(pipe), recipe.concept, generator=generator, workspace=workspace)
    encoder = to_encoder(
        edit,
        concept=recipe.concept,
        method=recipe.method,
        pipe=pipe,
        recipe={"name": recipe.name, "seed": recipe.seed},
        family=recipe.base,
        ids=base_ids,
        revision=base_revision,
        license=recipe.license,
    )
    encoder.save_pretrained(out)
    if work.exists():
        shutil.rmtree(work)
    logger.info("saved %s: %s", recipe.name, out)
    return encoder
