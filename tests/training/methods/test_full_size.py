"""AdvUnlearn at the sizes of Stable Diffusion 1.4 and 2.1 on a CPU, with random weights: does it run, in what memory?

Study: ``pytest -m slow -s tests/training/methods/test_full_size.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from full_size import ATTACK_STEPS, GIB, ITERATIONS, SIZES
from recorded import record, table
from torch.utils.flop_counter import FlopCounterMode

from robust_encoders.conversion.text_config import family_of
from robust_encoders.training.trainer.parameters import SelectionConfig

# Trains in a folder at a size, with options, and says what it took.
Run = Callable[[str, dict[str, Any], Path], dict[str, Any]]
# Rows of the study: fields of Workspace.
ROWS: dict[str, dict[str, Any]] = {
    "one pass": {},
    "one pass, checkpointing": {"gradient_checkpointing": True},
    "micro-batches of 1": {"micro_batch": 1},
    "micro-batches of 1, checkpointing": {"micro_batch": 1, "gradient_checkpointing": True},
}
PARAMETERS = {"sd1": (859_520_964, 123_060_480), "sd2": (865_910_724, 340_387_840)}
# Both runs of the bank count twice (guidance), an attack step 1 + 1, an unlearning and five retain points 6 + 6.
BANK_CALLS = 3 * 2 * 2
CALLS = ITERATIONS * (ATTACK_STEPS * 2 + 6 * 2)


def worked(found: dict[str, Any]) -> None:
    """Check what every run must have done."""
    assert found["finite"]
    assert (found["unet_calls"], found["bank_unet_calls"]) == (CALLS, BANK_CALLS)
    side = SIZES[found["size"]].unet["sample_size"]
    assert found["latents"] == [4, side, side]
    assert found["losses"]["unlearn"][0] > 0
    assert len(found["losses"]["retain"]) == ITERATIONS


def in_a_process(size: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    command = [sys.executable, full_size.__file__, size, json.dumps(options), str(folder)]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_configurations_are_those_that_were_published(size: str) -> None:
    unet, encoder = full_size.unet_of(SIZES[size]), full_size.text_encoder_of(SIZES[size])
    counts = [sum(p.numel() for p in module.parameters()) for module in (unet, encoder)]
    assert tuple(counts) == PARAMETERS[size]
    config: Any = encoder.config
    assert family_of(config.to_dict()) == size
    layers = config.num_hidden_layers
    assert len(SelectionConfig().select(encoder)) == 16 * layers + 2
    assert len(SelectionConfig(layers=(0,), final_norm=False).select(encoder)) == 16
    with pytest.raises(ValueError, match=rf"layers \[{layers}\]"):
        SelectionConfig(layers=(layers,)).select(encoder)


@pytest.mark.parametrize(("size", "flops"), [("sd1", 0.803e12), ("sd2", 2.149e12)])
def test_one_unet_forward_is_as_much_work_as_the_runbook_says(size: str, flops: float) -> None:
    unet, side = full_size.unet_of(SIZES[size]), SIZES[size].unet["sample_size"]
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        text = torch.empty(1, 77, SIZES[size].unet["cross_attention_dim"])
        unet(torch.empty(1, 4, side, side), torch.empty(1, dtype=torch.long), encoder_hidden_states=text)
    assert counter.get_total_flops() == pytest.approx(flops, rel=1e-3)


def test_the_worker_trains_and_says_what_it_took(tmp_path: Path) -> None:
    found = in_a_process("small", {}, tmp_path / "small")
    worked(found)
    assert 0 < found["loaded"]["peak"] <= found["after"]["peak"]
    assert found["seconds"] >= found["seconds_training"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("size", PARAMETERS)
def test_two_iterations_complete_at_full_size(size: str, tmp_path: Path) -> None:
    results = {name: in_a_process(size, options, tmp_path / name) for name, options in ROWS.items()}
    rows = [
        {
            "base": size,
            "row": name,
            "loaded GiB": found["loaded"]["now"] / GIB,
            "peak GiB": found["after"]["peak"] / GIB,
            "s/iteration": found["seconds_training"] / ITERATIONS,
            "s in all": found["seconds"],
        }
        for name, found in results.items()
    ]
    where = record(f"full_size_{size}", {"results": results})
    sys.stdout.write(f"\n{table(rows)}\n{where}\n")
    for found in results.values():
        worked(found)
    peaks = {name: found["after"]["peak"] for name, found in results.items()}
    assert peaks["micro-batches of 1, checkpointing"] < peaks["one pass"]
    if size == "sd1":
        assert peaks["one pass, checkpointing"] <= 7 * GIB
        assert peaks["micro-batches of 1, checkpointing"] <= 6 * GIB


def in_conditioning_space(size: str, folder: Path, run: Run) -> list[dict[str, Any]]:
    rows = []
    for steps in (0, 8):
        found = run(size, {"conditioning": steps}, folder / str(steps))
        assert found["finite"]
        assert found["unet_calls"] == 0  # the bank's, which the metric's unit comes from, are counted apart
        assert len(found["losses"]["attacked"]) == len(found["losses"]["retain_conditioning"]) > 0
        rows.append(
            {
                "base": size,
                "attack steps": steps,
                "s/iteration": found["seconds_training"] / len(found["losses"]["attacked"]),
                "peak GiB": found["after"]["peak"] / GIB,
                "loaded GiB": found["loaded"]["now"] / GIB,
            }
        )
    return rows


def test_steps_in_conditioning_space_call_no_unet(tmp_path: Path) -> None:
    free, attacked = in_conditioning_space("small", tmp_path, full_size.run)
    assert free["s/iteration"] > 0
    assert attacked["attack steps"] == 8


@pytest.mark.slow
def test_steps_in_conditioning_space_at_full_size(tmp_path: Path) -> None:
    rows = in_conditioning_space("sd1", tmp_path, in_a_process)
    where = record("full_size_conditioning", {"rows": rows})
    sys.stdout.write(f"\n{table(rows)}\n{where}\n")
    assert rows[0]["s/iteration"] < rows[1]["s/iteration"]
