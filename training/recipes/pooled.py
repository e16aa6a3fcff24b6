"""Recipes for Stable Diffusion with terms on any text, with the sizes that 77 positions allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..methods import AdvUnlearn
from ..objectives.language_config import LanguageConfig
from ..trainer.parameters import SelectionConfig
from .recipe import Recipe
from .stable_diffusion import published, published_recipes


def pooled(concept: str, family: str) -> Recipe:
    """Return the recipe of AdvUnlearn for one of the paper's six concepts with terms on any text.

    The terms are those of ``shapes_pooled``, with smaller batches, because a prompt has 77 positions instead of 24.
    Every layer is trained: a term on conditionings cannot be met by layer 0 alone. No run has chosen these weights.

    There are two more departures. The concept's prompt is its bare name, and no retain prompt shows which words fit the
    place of a bare name. So there is no term on two words: with "alarm" as a fitting word, it would pull "alarm clock"
    to "alarm", though an alarm clock is retained. The attacked prompts' target is the base's prediction for the empty
    prompt (eta 0): one beyond it would contradict the term on negative prompts.

    Args:
        concept: Name of the concept in the catalog.
        family: Family of the base, ``sd1`` or ``sd2``.
    """
    like = published(concept, family)
    assert isinstance(like.method, AdvUnlearn)
    method = replace(
        like.method,
        retain=replace(like.method.retain, space="both", conditioning_weight=5.0, conditioning_batch=32),
        unlearn=replace(like.method.unlearn, eta=0.0),
        select=SelectionConfig(),
        train=replace(like.method.train, average=0.99),
        language=LanguageConfig(
            pool_weight=1.0,
            pool=32,
            pool_batch=8,
            context_weight=5.0,
            context_batch=16,
            negative_weight=1.0,
            empty_weight=5.0,
        ),
    )
    return replace(like, name=f"{family}/{concept}-pooled", method=method)


RECIPES: Mapping[str, Callable[[], Recipe]] = published_recipes(pooled, "pooled")
