"""Compare the two transports of a shipped SPM adapter on the same prompts: transport.py CONCEPT FOLDER [N] [N_KEPT].

FOLDER/CONCEPT gets both evaluations and ``paired.json``. A second run keeps the finished parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robust_encoders import Overlay, embedded_pipeline
from robust_encoders.overlays.adapters import Transport
from robust_encoders.training.diffusion.sampling import draw
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.worst_case import union
from robust_encoders.training.metrics.paired_tests import paired_test
from robust_encoders.training.metrics.retention import not_as_asked
from robust_encoders.training.provenance import write_json
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.worlds.shapes.judge import load_judge

TRANSPORTS: tuple[Transport, ...] = ("paper", "official")
ATTACKS = ("random", "discrete")


@dataclass(frozen=True)
class Transported:
    """An adapter with one of the two transports, as a baseline of an evaluation."""

    overlay: Overlay
    transport: Transport

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"spm-{self.transport}"

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Attach the adapter for the length of a ``with`` block."""
        self.overlay.attach(pipe, transport=self.transport)
        try:
            yield pipe
        finally:
            self.overlay.detach(pipe)

    def described(self) -> Mapping[str, Any]:
        """Return name and settings as JSON values."""
        return {"name": self.name, "transport": self.transport, "content_sha256": self.overlay.content_sha256}


def kept_as_asked(defence: Transported, benchmark: ShapesBenchmark, config: EvaluationConfig) -> list[bool]:
    """Return for each kept prompt if its picture shows everything as asked."""
    cases, pipe = benchmark.kept_set(config.seed).cases, embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with defence.attached(pipe):
        pictures = draw(pipe, [case.prompt for case in cases], [case.seed for case in cases], config.sampling)
    return [not wrong for wrong in not_as_asked(load_judge(), pictures, cases)]


def main(concept: str, folder: Path, n: int, n_kept: int) -> None:
    """Evaluate both transports, compare them prompt by prompt (the first is ``paper``), and write the comparison."""
    overlay = Overlay.from_pretrained(f"shapes/{concept}-spm")
    assert isinstance(overlay, Overlay)
    benchmark = ShapesBenchmark(concept, n=n, n_kept=n_kept, n_probes=2, n_renders=64, suite="core")
    config = EvaluationConfig(checks=0, attacks=ATTACKS, source=folder / concept / "source")
    stored, kept = [], []
    for transport in TRANSPORTS:
        defence, out = Transported(overlay, transport), folder / concept / transport
        evaluate(embedded_pipeline(), defence, benchmark, out=out, config=config)
        stored.append(StoredEvaluation.read(out))
        kept.append(kept_as_asked(defence, benchmark, config))
    worst = paired_test(*(union(one.verdicts, ATTACKS) for one in stored))
    found = {"concept": concept, "lost_by_text": asdict(worst), "kept_as_asked": asdict(paired_test(*kept))}
    write_json(folder / concept / "paired.json", found)
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    sizes = [int(one) for one in sys.argv[3:]]
    main(sys.argv[1], Path(sys.argv[2]), *(sizes or [60, 200]))
