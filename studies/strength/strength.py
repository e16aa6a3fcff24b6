"""Run every text attack of the suite with its budget and with twice of it, and print who wins what: see --help.

A finished part is read from its file, so the command goes on after an interruption, and prints a finished table again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from robust_encoders import RobustEncoder
from robust_encoders.training.attacks import Paraphrase, WordSwap
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.plan import Plan
from robust_encoders.training.evaluation.recorded import recorded_attacks
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.threat_model import TEXT_TIERS
from robust_encoders.training.metrics.paired_tests import paired_verdicts
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackFacts
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.utils.home import expanded

TWICE = "_twice"  # ending of the label of an attack with twice the budget
COLUMNS = (
    "encoder",
    "seed",
    "attack",
    "won",
    "won with twice the budget",
    "only with twice",
    "only with the standard one",
    "thousand UNet calls",
    "seconds",
)
# Fields that are doubled together; those of other attacks are the first of their budget_fields.
TOGETHER: Mapping[type[Any], tuple[str, ...]] = {Paraphrase: ("whole",), WordSwap: ("drawn", "kept", "whole")}


def doubled(attack: Attack) -> Attack | None:
    """Return the same attack with twice its budget, or None if it is no search or has no budget."""
    facts = AttackFacts.of(attack)
    names = TOGETHER.get(type(attack), facts.budget_fields[:1])
    if not names or not facts.searches:
        return None
    made: Any = attack
    twice: Attack = replace(made, **{name: 2 * getattr(attack, name) for name in names})
    return twice


@dataclass(frozen=True)
class StrengthBenchmark:
    """The text attacks of a benchmark on the shapes base, each beside itself with twice the budget, and nothing else.

    Args:
        shapes: Benchmark with the suite.
        labels: Labels of the attacks; empty for all text attacks with a budget.
    """

    name: ClassVar[str] = "strength"

    shapes: ShapesBenchmark
    labels: tuple[str, ...] = ()

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan with twins of all attacks, without utility and probes.

        Raises:
            ValueError: If a label names no text attack with a budget.
        """
        plan = self.shapes.plan(pipe, config)
        twins = {label: (attack, twin) for label, attack in plan.attacks.items() if (twin := doubled(attack))}
        found = {label: pair for label, pair in twins.items() if pair[0].tier in TEXT_TIERS}
        if odd := [label for label in self.labels if label not in found]:
            raise ValueError(f"expected text attacks with a budget, one of {', '.join(found)}, found {odd}")
        chosen = {label: pair for label, pair in found.items() if label in (self.labels or found)}
        attacks = {
            label + end: one for label, pair in chosen.items() for end, one in zip(("", TWICE), pair, strict=True)
        }
        return replace(
            plan, plain=plan.plain[:1], attacks=attacks, utility={}, erased={}, probes={}, control=None, instead=None
        )


def rows(encoder: str, seed: int, folder: Path, evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """Yield one row of the table for each attack of a finished evaluation."""
    verdicts = {one.label: one.verdicts for one in recorded_attacks(folder)}
    rates = [one for one in evaluation.results if one.metric == "asr_any"]
    calls = {one.settings["attack"]["label"]: one.unet_calls for one in rates}
    for label in [label for label in calls if not label.endswith(TWICE)]:
        twice = label + TWICE
        test = paired_verdicts(verdicts[twice], verdicts[label])
        seconds = [f"{evaluation.seconds[f'attack-{one}']:.0f}" for one in (label, twice)]
        spent = [f"{calls[one] / 1000:.1f}" for one in (label, twice)]
        won = (f"{test.both + test.only_second} of {test.n}", f"{test.both + test.only_first} of {test.n}")
        yield (encoder, seed, label, *won, test.only_first, test.only_second, " / ".join(spent), " / ".join(seconds))


def measure(encoder: str, seed: int, options: argparse.Namespace) -> Iterator[Sequence[object]]:
    """Evaluate one encoder with one seed and yield its rows."""
    made = RobustEncoder.from_pretrained(encoder)
    shapes = ShapesBenchmark(options.concept, n=options.n, n_kept=2, n_renders=1, n_probes=2, suite=options.suite)
    benchmark = StrengthBenchmark(shapes, tuple(options.attacks))
    out = options.out / f"{encoder.replace('/', '-')}-{seed}"
    config = EvaluationConfig(seed=seed, checks=0, source=options.out / ".source")
    yield from rows(encoder, seed, out, evaluate(ShapesWorld().pipeline(), made, benchmark, out=out, config=config))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the named encoders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoders", nargs="+", help="encoders, for example shapes/circle")
    parser.add_argument("--base", choices=["shapes"], default="shapes", help="embedded base")
    parser.add_argument("--concept", required=True, help="erased concept")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1], help="seeds of the runs")
    parser.add_argument("--n", type=int, default=30, help="number of attacked prompts")
    parser.add_argument("--suite", choices=["standard", "full"], default="standard", help="suite of the attacks")
    parser.add_argument("--attacks", nargs="*", default=[], help="labels; by default all text attacks with a budget")
    parser.add_argument("--out", type=expanded, default=Path("runs/strength"), help="folder of the evaluations")
    options = parser.parse_args(arguments)
    for row in (COLUMNS, ("---",) * len(COLUMNS)):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    for encoder in options.encoders:
        for seed in options.seed:
            for found in measure(encoder, seed, options):
                sys.stdout.write(f"| {' | '.join(map(str, found))} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
