"""A training that was killed ten times ends in the bits of one that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ONE_THREAD
from tree import HELPERS

WORKER = HELPERS / "killed_training.py"
KILLS = 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_training_killed_at_ten_random_moments_ends_in_the_same_bits(tiny_pipe: Any, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    command = [sys.executable, str(WORKER), str(tmp_path / "pipe"), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, timeout=300, stdout=subprocess.PIPE)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["hashes"][0] == found["hashes"][1]
    assert len(found["reached"]) == KILLS, "every kill met it at work"
    assert len(set(found["reached"])) > KILLS // 2, "it got on from one to the next"
    assert found["reached"][-1] < "checkpoint-00000030" == found["left"][0]
    assert found["left"] == ["checkpoint-00000030", "hash"], "nothing half written is left"
