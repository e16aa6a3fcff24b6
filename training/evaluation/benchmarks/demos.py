"""The worlds of the demo, by embedded base: prompts about a concept, a detector of it, and a judge of all else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.hub.embedded import embedded_folder, is_installed

from ...protocols import Detector
from ...types import Case
from ..config import EvaluationConfig
from ..plan import Benchmark
from . import BENCHMARKS
from .emoji_demo import EmojiDemo
from .shapes_demo import ShapesDemo


class DemoWorld(Protocol):
    """Protocol of an embedded base's world for the demo: prompts about a concept, and a judge."""

    @property
    def name(self) -> str:
        """Name of the embedded base."""
        ...

    @property
    def about(self) -> str:
        """Description of the base in a few words."""
        ...

    @property
    def concept(self) -> str:
        """Name of the concept."""
        ...

    @property
    def detector(self) -> Detector:
        """Detector of the concept."""
        ...

    def named(self, n: int, *, seed: int) -> dict[str, list[Case]]:
        """Return title to ``n`` cases that state the concept, plain prompts first."""
        ...

    def kept(self, n: int, *, seed: int) -> list[Case]:
        """Return ``n`` cases that do not state the concept."""
        ...

    def instead(self, images: Tensor, cases: Sequence[Case]) -> Sequence[str]:
        """Return what pictures (B, 3, H, W) in [0, 1] show instead of the requested values; empty if as requested."""
        ...


def _shapes(concept: str, pipe: Any) -> DemoWorld:
    return ShapesDemo.load(concept)


def _emoji(concept: str, pipe: Any) -> DemoWorld:
    make: Callable[..., Benchmark] = BENCHMARKS[EmojiDemo.name]
    return EmojiDemo.load(concept, make(concept=concept).plan(pipe, EvaluationConfig()).detector)


# Name of an embedded base to a function that returns its world for a concept and the base's pipeline. The picture shows
# the bases in this order.
DEMOS: Mapping[str, Callable[[str, Any], DemoWorld]] = {EmojiDemo.name: _emoji, ShapesDemo.name: _shapes}


def missing_for_demo(base: str) -> str:
    """Return what an embedded base lacks for the demo, in a few words; empty if it lacks nothing.

    Args:
        base: Name of the base.
    """
    if not is_installed(base):
        return "it is not installed"
    facts = EMBEDDED[base]
    if not (embedded_folder(base) / "encoders" / facts.concept).is_dir():
        return f"its encoder {facts.encoder} is not installed"
    return "" if base in BENCHMARKS else "it has no benchmark"
