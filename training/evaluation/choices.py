"""Lookup of attacks, metrics and detectors by name: labels of a benchmark first, then registered classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from ..attacks import ATTACKS
from ..detectors import DETECTORS
from ..metrics import METRICS
from ..protocols import Detector
from .config import EvaluationConfig
from .plan import Benchmark, NamesChoices, Plan

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

T = TypeVar("T")
_Maker = Callable[..., Any]


def refuse_unknown(benchmark: Benchmark, config: EvaluationConfig) -> None:
    """Check the names of attacks and metrics before anything is loaded.

    If a benchmark does not list its labels, ``chosen`` checks the names later.

    Raises:
        ValueError: If a name is neither a label of the benchmark nor registered, or its class needs arguments.
    """
    if isinstance(benchmark, NamesChoices):
        _check(config.attacks, benchmark.attack_labels(), ATTACKS, "attack")
        _check(config.metrics, benchmark.metric_labels(), METRICS, "metric")


def chosen(plan: Plan, config: EvaluationConfig) -> Plan:
    """Return the plan with the attacks and metrics that the configuration names; an empty list changes nothing.

    Raises:
        ValueError: If a name is not known, or its class needs arguments; see ``refuse_unknown``.
    """
    if config.attacks:
        _check(config.attacks, plan.attacks, ATTACKS, "attack")
        plan = replace(
            plan, attacks={n: plan.attacks.get(n) or built(ATTACKS[n], plan.concept) for n in config.attacks}
        )
    return _with_metrics(plan, config.metrics) if config.metrics else plan


def _with_metrics(plan: Plan, names: tuple[str, ...]) -> Plan:
    own = {**plan.utility, **plan.erased, **plan.probes}
    _check(names, own, METRICS, "metric")
    others = {name: _maker(METRICS[name], plan.concept) for name in names if name not in own}
    return replace(
        plan,
        utility=_named(names, {**plan.utility, **others}),
        erased=_named(names, plan.erased),
        probes=_named(names, plan.probes),
        measures={**plan.measures, "metrics": list(names)},
    )


def _named(names: Iterable[str], known: Mapping[str, T]) -> dict[str, T]:
    return {name: known[name] for name in names if name in known}


def _maker(kind: Callable[..., T], concept: Concept) -> Callable[[], T]:
    return lambda: built(kind, concept)


def built(kind: Callable[..., T], concept: Concept) -> T:
    """Return an instance of a registered class, made by its class method ``for_concept`` or else by its defaults."""
    make: Callable[[Concept], T] | None = getattr(kind, "for_concept", None)
    return kind() if make is None else make(concept)


def refuse_unknown_detector(name: str, own: Collection[str] = ()) -> None:
    """Check the name of a detector before anything is loaded.

    Args:
        name: Name of the detector.
        own: Further names that the benchmark knows.

    Raises:
        ValueError: If no detector of that name is registered.
    """
    if name not in DETECTORS and name not in own:
        known = dict.fromkeys((*own, *DETECTORS))
        raise ValueError(f"expected a detector, found {name!r}; {_hint(name, known)}")


def detector_named(name: str, concept: Concept) -> Detector:
    """Return a registered detector, built by its class method ``for_concept`` or by its defaults.

    Raises:
        ValueError: If no detector of that name is registered, or its class needs arguments.
    """
    refuse_unknown_detector(name)
    refuse_unbuildable(name, DETECTORS[name], "detector")
    return built(DETECTORS[name], concept)


def refuse_unbuildable(name: str, kind: Callable[..., Any], what: str) -> None:
    """Check that a registered class can be built by name alone.

    Raises:
        ValueError: If the class has arguments without defaults and no class method ``for_concept``.
    """
    if hasattr(kind, "for_concept"):
        return
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise ValueError(
            f"expected {what}s with defaults for all settings, found {name!r}: {error}; "
            "give its class a class method for_concept, or make it in Python"
        ) from error


def _check(
    names: Collection[str], labels: Collection[str], registry: Mapping[str, Callable[..., Any]], what: str
) -> None:
    for name in names:
        if name in labels:
            continue
        if name not in registry:
            raise ValueError(f"expected {what}s, found {name!r}; {_hint(name, dict.fromkeys((*labels, *registry)))}")
        refuse_unbuildable(name, registry[name], what)


def _hint(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
