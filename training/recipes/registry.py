"""All recipes by name, for every base."""

from __future__ import annotations

from collections.abc import Callable

from . import (
    ablation,
    doco,
    esd_race,
    pooled,
    receler,
    shapes,
    shapes_ablation,
    shapes_doco,
    shapes_esd_race,
    shapes_overlays,
    shapes_pooled,
    shapes_receler,
    stable_diffusion,
)
from .recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    **doco.RECIPES,
    **esd_race.RECIPES,
    **pooled.RECIPES,
    **receler.RECIPES,
    **shapes.RECIPES,
    **shapes_ablation.RECIPES,
    **shapes_doco.RECIPES,
    **shapes_esd_race.RECIPES,
    **shapes_overlays.RECIPES,
    **shapes_pooled.RECIPES,
    **shapes_receler.RECIPES,
    **stable_diffusion.RECIPES,
    **ablation.RECIPES,
}
