"""Short runs: a first look at a method, and banks that are no larger than a run of few iterations can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from robust_encoders.concepts import Concept

from ..protocols import Method, RetainingMethod
from ..trainer.loop import TrainingConfig
from ..trajectories.config import BankConfig

M = TypeVar("M", bound=Method)
_PART = 10
_PROMPTS = 16
# Numbers of a method that grow with the length of its run.
_LENGTHS = ("warmup", "pictures")
# Largest number of pictures per iteration, for a method whose bank holds clean pictures.
_PICTURES = 16


def quick(method: M) -> M:
    """Return a method for a first look: a tenth of the iterations, warm-up, pictures and trajectories.

    Args:
        method: Method with the settings of a whole run.
    """
    shorter: M = _changed(method, _tenth)
    return shorter


def with_fitting_banks(method: M, concept: Concept) -> M:
    """Return a method whose banks have at most one trajectory, or 16 clean pictures, per iteration.

    The bound holds for each list of prompts. No registered recipe reaches it.

    Args:
        method: Method with its settings; every part of it that has a bank and a training loop is changed.
        concept: Concept to erase, whose prompts have trajectories.
    """
    n_concept = len(concept.prompts or concept.words())

    def fitting(part: Any) -> Mapping[str, Any]:
        bank, training = getattr(part, "bank", None), getattr(part, "train", None)
        if not isinstance(bank, BankConfig) or not isinstance(training, TrainingConfig):
            return {}
        if isinstance(pictures := getattr(part, "pictures", None), int):
            return {"pictures": min(pictures, _PICTURES * training.iterations)}
        n_retain = len(part.retained) if isinstance(part, RetainingMethod) else 0
        return {"bank": bank.for_run(training.iterations, n_concept, n_retain)}

    fitted: M = _changed(method, fitting)
    return fitted


def _tenth(part: Any) -> Mapping[str, Any]:
    shorter = {name: _less(getattr(part, name)) for name in _LENGTHS if isinstance(getattr(part, name, None), int)}
    if isinstance(part, TrainingConfig):
        shorter["iterations"] = _less(part.iterations)
    if not isinstance(part, BankConfig):
        return shorter
    seeds = _less(part.seeds) if isinstance(part.seeds, int) else (_less(part.seeds[0]), _less(part.seeds[1]))
    return {**shorter, "seeds": seeds, "limit": _PROMPTS if part.limit is None else min(part.limit, _PROMPTS)}


def _less(length: int) -> int:
    return max(1, length // _PART)


def _changed(value: Any, change: Callable[[Any], Mapping[str, Any]]) -> Any:
    """Return a dataclass with ``change`` applied to it and to all dataclasses in its fields at once."""
    held = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
    inner = {name: _changed(part, change) for name, part in held.items() if is_dataclass(part)}
    return replace(value, **{**inner, **change(value)})
