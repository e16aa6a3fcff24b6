"""All recipes by name, for every base."""

from __future__ import annotations

from collections.abc import Callable

from . import (
    ablation,
    closed_forms,
    doco,
    emoji,
    esd_race,
    hirm,
    pooled,
    receler,
    s_grace,
    shapes,
    shapes_ablation,
    shapes_closed_forms,
    shapes_doco,
    shapes_esd_race,
    shapes_hirm,
    shapes_overlays,
    shapes_pooled,
    shapes_receler,
    shapes_s_grace,
    stable_diffusion,
)
from .recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    **closed_forms.RECIPES,
    **doco.RECIPES,
    **esd_race.RECIPES,
    **hirm.RECIPES,
    **pooled.RECIPES,
    **receler.RECIPES,
    **s_grace.RECIPES,
    **shapes.RECIPES,
    **shapes_ablation.RECIPES,
    **shapes_closed_forms.RECIPES,
    **shapes_doco.RECIPES,
    **shapes_esd_race.RECIPES,
    **shapes_hirm.RECIPES,
    **shapes_overlays.RECIPES,
    **shapes_pooled.RECIPES,
    **shapes_receler.RECIPES,
    **shapes_s_grace.RECIPES,
    **emoji.RECIPES,
    **stable_diffusion.RECIPES,
    **ablation.RECIPES,
}
