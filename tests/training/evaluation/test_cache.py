"""Cells: done once, kept while their inputs hold, never half-written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from robust_encoders.training.evaluation.cache import Cache
from robust_encoders.training.provenance import canonical_sha256, write_json


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"pair": (1, 2), "times": self.times}


def test_a_cell_is_computed_once(tmp_path: Path) -> None:
    work = Work()
    fresh = Cache(tmp_path, {"seed": 0}).get("a", {"n": 1}, work)
    again = Cache(tmp_path, {"seed": 0}).get("a", {"n": 1}, work)
    assert fresh == again == {"pair": [1, 2], "times": 1}
    assert work.times == 1


def test_seconds_are_those_of_the_first_time(tmp_path: Path) -> None:
    first, second = Cache(tmp_path, {}), Cache(tmp_path, {})
    first.get("a", {}, Work())
    second.get("a", {}, Work())
    assert first.seconds == second.seconds
    assert first.seconds.keys() == {"a"}


@pytest.mark.parametrize(("common", "inputs"), [({"seed": 1}, {"n": 1}), ({"seed": 0}, {"n": 2})])
def test_other_inputs_make_it_again_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, common: dict[str, int], inputs: dict[str, int]
) -> None:
    work = Work()
    Cache(tmp_path, {"seed": 0}).get("a", {"n": 1}, work)
    assert Cache(tmp_path, common).get("a", inputs, work)["times"] == 2
    assert "made from other inputs" in caplog.text


def test_work_that_fails_leaves_no_cell(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path, {}).get("a", {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Cache(tmp_path, {}).get("a", {}, lambda: {"rate": math.nan})
    assert not list(tmp_path.iterdir())


def test_the_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert canonical_sha256({"a": 1, "b": [2]}) == canonical_sha256({"b": [2], "a": 1})
    assert canonical_sha256({"a": [1, 2]}) != canonical_sha256({"a": [2, 1]})


def test_writing_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"old": 1})
    write_json(path, {"new": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": "é"}
    assert list(path.parent.iterdir()) == [path]
