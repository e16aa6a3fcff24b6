from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from robust_encoders.training.workspace import Workspace


def test_by_default_nothing_is_kept() -> None:
    made = Workspace()
    assert (made.folder, made.cache_dir, made.trackers) == (None, None, None)
    assert made.resume
    assert made.progress
    assert (made.micro_batch, made.gradient_checkpointing) == (None, False)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": -1}, {"micro_batch": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected every and micro_batch of at least 1"):
        Workspace(**wrong)
    assert Workspace(every=1, micro_batch=1).micro_batch == 1


def test_it_cannot_be_changed_in_the_middle_of_a_run() -> None:
    made: Any = Workspace()
    with pytest.raises(FrozenInstanceError):
        made.every = 3
