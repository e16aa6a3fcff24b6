"""The results of an evaluation, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_encoders.utils.home import expanded

from ..provenance import write_json
from ..types import Result

RESULTS_NAME = "results.json"
CELLS = "cells"  # the folder of an evaluation's parts
SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one encoder, or of the base, on one concept.

    Args:
        label: ``base``, or the name of the method that made the encoder.
        concept: Name of the concept that should be gone.
        results: All numbers.
        seconds: Name of a part of the evaluation to the seconds that it took.
        subject: Identity of the encoder: method, recipe, hash of its tensors.
        checks: Checks on the attacks, each with the fields of ``SanityCheck``. A failed check,
            except ``seeds_differ``, says that a number is not to be trusted.
        benchmark: Name of the benchmark in ``BENCHMARKS``; empty if it is not known.
    """

    label: str
    concept: str
    results: tuple[Result, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    subject: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Mapping[str, Any], ...] = ()
    benchmark: str = ""

    def records(self) -> tuple[dict[str, Any], ...]:
        """Return the results as JSON values, for a manifest."""
        return tuple(result.record() for result in self.results)

    def write(self, path: str | Path) -> None:
        """Write ``results.json``."""
        head = {"schema": SCHEMA, "label": self.label, "concept": self.concept, "subject": dict(self.subject)}
        if self.benchmark:
            head["benchmark"] = self.benchmark
        checks = [dict(check) for check in self.checks]
        write_json(expanded(path), {**head, "results": self.records(), "checks": checks, "seconds": dict(self.seconds)})

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """Read a ``results.json``, or the one in a folder.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no such JSON, or has another schema.
        """
        path = expanded(path)
        path = path / RESULTS_NAME if path.is_dir() else path
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"expected the JSON of an evaluation in {path}, found something else: {error}") from error
        schema = stored.get("schema") if isinstance(stored, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA} in {path}, found {schema}; evaluate again")
        try:
            results = tuple(result_from_record(record) for record in stored["results"])
            subject, checks = stored.get("subject", {}), tuple(stored.get("checks", ()))
            benchmark = stored.get("benchmark", "")
            return cls(stored["label"], stored["concept"], results, stored["seconds"], subject, checks, benchmark)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"expected all fields of an evaluation in {path}, found others: {error!r}") from error


def result_from_record(record: Mapping[str, Any]) -> Result:
    """Return the result of a record that ``dataclasses.asdict`` and JSON made."""
    interval = record.get("interval")
    pair = None if interval is None else (float(interval[0]), float(interval[1]))
    return Result(**{**record, "interval": pair, "seeds": tuple(record.get("seeds", ()))})
