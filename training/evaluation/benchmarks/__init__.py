"""Benchmarks of encoders on a base; ``BENCHMARKS`` maps a name to the class of a benchmark."""

from __future__ import annotations

from ...plugins import Registry
from ..plan import Benchmark
from .emoji import EmojiBenchmark
from .shapes import ShapesBenchmark
from .stable_diffusion import StableDiffusionBenchmark

_OURS: dict[str, type[Benchmark]] = {
    "shapes": ShapesBenchmark,
    "emoji": EmojiBenchmark,
    "stable_diffusion": StableDiffusionBenchmark,
}
BENCHMARKS: Registry[type[Benchmark]] = Registry("robust_encoders.benchmarks", _OURS)

__all__ = ["BENCHMARKS", "EmojiBenchmark", "ShapesBenchmark", "StableDiffusionBenchmark"]
