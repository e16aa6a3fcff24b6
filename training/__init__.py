"""Training and evaluation of robust encoders: methods, attacks, metrics, recipes. Needs the extra ``train``.

The subpackages; each imports only from those below it:

cli            training commands: train, evaluate, demo, and commands on finished evaluations
app            page in the browser: pictures side by side, and a quick attack on them
reports        tables, pages and pictures of finished evaluations
evaluation     attacks on encoders, judgement, aggregation; benchmarks and sanity checks
recipes        named runs with all their settings; code that runs and reproduces them
methods        concept-erasure methods, one file each
objectives     loss terms of the methods that train a text encoder
metrics        measures computed over pictures, one file each
detectors      detectors that score if a picture shows a concept, one file each
attacks        attacks of an evaluation and inner attacks of a training, one file each
trainer        gradient loop with its checkpoints and its record
trajectories   latents and predictions of the frozen model
prompts        prompts as text and as token rows
worlds         embedded bases (small synthetic pipelines) and the code that builds them
diffusion      parts of a Stable Diffusion pipeline behind one interface
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attacks import ATTACKS, INNER_ATTACKS
    from .detectors import DETECTORS
    from .diffusion.backbone import Backbone
    from .diffusion.two_encoders import backbone_of
    from .evaluation.benchmarks import BENCHMARKS, EmojiBenchmark, ShapesBenchmark, StableDiffusionBenchmark
    from .evaluation.config import EvaluationConfig
    from .evaluation.evaluate import evaluate
    from .evaluation.plan import Benchmark
    from .evaluation.results import Evaluation
    from .methods import METHODS
    from .methods.merge import merge
    from .metrics import METRICS
    from .protocols import Attack, Detector, InnerAttack, Method, Metric
    from .recipes.recipe import Recipe
    from .recipes.registry import RECIPES
    from .recipes.reproduce import reproduce
    from .recipes.run import run_recipe
    from .trackers import TrackingConfig
    from .types import AttackResult, Candidate, Case, Edit, Result
    from .workspace import Workspace
    from .worlds import BASES

# Module of each public name. It is imported at the first access to the name, as modules need different extras.
_HOMES = {
    "ATTACKS": "attacks",
    "BASES": "worlds",
    "BENCHMARKS": "evaluation.benchmarks",
    "DETECTORS": "detectors",
    "INNER_ATTACKS": "attacks",
    "METHODS": "methods",
    "METRICS": "metrics",
    "RECIPES": "recipes.registry",
    "Attack": "protocols",
    "AttackResult": "types",
    "Backbone": "diffusion.backbone",
    "Benchmark": "evaluation.plan",
    "Candidate": "types",
    "Case": "types",
    "Detector": "protocols",
    "Edit": "types",
    "EmojiBenchmark": "evaluation.benchmarks",
    "Evaluation": "evaluation.results",
    "EvaluationConfig": "evaluation.config",
    "InnerAttack": "protocols",
    "Method": "protocols",
    "Metric": "protocols",
    "Recipe": "recipes.recipe",
    "Result": "types",
    "ShapesBenchmark": "evaluation.benchmarks",
    "StableDiffusionBenchmark": "evaluation.benchmarks",
    "TrackingConfig": "trackers",
    "Workspace": "workspace",
    "backbone_of": "diffusion.two_encoders",
    "evaluate": "evaluation.evaluate",
    "merge": "methods.merge",
    "reproduce": "recipes.reproduce",
    "run_recipe": "recipes.run",
}

__all__ = [
    "ATTACKS",
    "BASES",
    "BENCHMARKS",
    "DETECTORS",
    "INNER_ATTACKS",
    "METHODS",
    "METRICS",
    "RECIPES",
    "Attack",
    "AttackResult",
    "Backbone",
    "Benchmark",
    "Candidate",
    "Case",
    "Detector",
    "Edit",
    "EmojiBenchmark",
    "Evaluation",
    "EvaluationConfig",
    "InnerAttack",
    "Method",
    "Metric",
    "Recipe",
    "Result",
    "ShapesBenchmark",
    "StableDiffusionBenchmark",
    "TrackingConfig",
    "Workspace",
    "backbone_of",
    "evaluate",
    "merge",
    "reproduce",
    "run_recipe",
]


def __getattr__(name: str) -> Any:
    """Return a public name, imported from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
