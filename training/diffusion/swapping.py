"""A component of a pipeline that is replaced for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def swapped(pipe: Any, slot: str, part: Any) -> Iterator[None]:
    """Put a component into a slot of a pipeline; afterwards, restore the former one and its registration.

    Args:
        pipe: A diffusers pipeline.
        slot: Name of the component.
        part: Component to use within the scope.
    """
    before, entry = getattr(pipe, slot), pipe.config[slot]
    try:
        pipe.register_modules(**{slot: part})
        yield
    finally:
        pipe.register_modules(**{slot: before})
        pipe.register_to_config(**{slot: entry})


@contextmanager
def scheduled(pipe: Any, scheduler: str) -> Iterator[None]:
    """Give a pipeline another scheduler, made from the configuration of its own, for the length of a ``with`` block.

    Args:
        pipe: A diffusers pipeline.
        scheduler: Name of a scheduler class of diffusers, compatible with the pipeline's; empty to change nothing.

    Raises:
        ValueError: If the scheduler is not compatible with the pipeline's.
    """
    if not scheduler:
        yield
        return
    known = {kind.__name__: kind for kind in pipe.scheduler.compatibles}
    if scheduler not in known:
        raise ValueError(f"expected a scheduler among {', '.join(sorted(known))}, found {scheduler!r}")
    with swapped(pipe, "scheduler", known[scheduler].from_config(pipe.scheduler.config)):
        yield
