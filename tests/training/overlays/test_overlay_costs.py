"""What adapters and a projection cost while pictures are drawn, at the size of Stable Diffusion 1.4.

Study: ``pytest -m slow -s tests/training/overlays/test_overlay_costs.py``.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from diffusers import StableDiffusionPipeline
from full_size import SIZES
from overlays import make_adapter, make_projection
from recorded import record, table

from robust_encoders import CompatibilityWarning, Overlay
from robust_encoders.overlays.adapters import text_layers, unet_layers

ROUNDS = 3
PROMPTS = ("", "a red circle on a white background")
Row = dict[str, Any]


def pipeline(size: str, folder: Path) -> Any:
    parts = full_size.base(SIZES[size], folder, dtype=torch.float32)
    none = {"vae": None, "safety_checker": None, "feature_extractor": None}
    pipe: Any = StableDiffusionPipeline(**vars(parts), **none, requires_safety_checker=False)
    return pipe


def variants(pipe: Any) -> dict[str, list[Overlay]]:
    names = ("a red circle", "a teapot", "an armchair", "a church")
    adapters = [make_adapter(pipe, name, seed=i) for i, name in enumerate(names)]
    projection = [make_projection(pipe)]
    return {
        "plain": [], "1 adapter": adapters[:1], "4 adapters": adapters, "1 projection": projection,
        "1 adapter, fused": adapters[:1], "1 projection, fused": projection,
    }  # fmt: skip


def seconds(action: Callable[[], object]) -> float:
    """Of this process alone, whatever else the machine does."""
    start = time.process_time()
    action()
    return time.process_time() - start


@torch.no_grad()
def measure(pipe: Any, overlays: list[Overlay], *, fused: bool) -> tuple[float, float]:
    """Return the seconds of encoding both prompts, and of one step of guidance on one picture."""
    ids = pipe.tokenizer(list(PROMPTS), padding="max_length", max_length=77, return_tensors="pt").input_ids
    side = pipe.unet.config.sample_size
    latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for overlay in overlays:
            if fused and overlay.manifest.form == "adapter":  # its gate is one number then
                overlay.attach(pipe, transport="paper")
                stack.callback(overlay.detach, pipe)
            else:
                stack.enter_context(overlay.attached(pipe))
            if fused:
                overlay.fuse(pipe)
        encode = seconds(lambda: pipe.text_encoder(ids))
        conditioning = pipe.text_encoder(ids)[0]
        pipe.unet(latents, 500, encoder_hidden_states=conditioning)  # the first call casts what later ones reuse
        return encode, seconds(lambda: pipe.unet(latents, 500, encoder_hidden_states=conditioning))


def measured(pipe: Any, rounds: int) -> list[Row]:
    """By turns, so that whatever else the machine does falls on all alike."""
    found: dict[str, list[tuple[float, float]]] = {}
    made = variants(pipe)
    for _ in range(rounds):
        for name, overlays in made.items():
            found.setdefault(name, []).append(measure(pipe, overlays, fused="fused" in name))
    plain = found["plain"]
    return [
        {
            "with": name,
            "text s": statistics.median(text for text, _ in times),
            "step s": statistics.median(step for _, step in times),
            "text / plain": statistics.median(a[0] / b[0] for a, b in zip(times, plain, strict=True)),
            "step / plain": statistics.median(a[1] / b[1] for a, b in zip(times, plain, strict=True)),
        }
        for name, times in found.items()
    ]


def test_the_study_measures_every_variant(tmp_path: Path) -> None:
    pipe = pipeline("small", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompatibilityWarning)
        rows = measured(pipe, 1)
    assert [row["with"] for row in rows] == list(variants(pipe))
    assert rows[0]["step / plain"] == 1
    assert all(row["step s"] > 0 for row in rows)


@pytest.mark.slow
def test_a_step_costs_hardly_more_with_overlays(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompatibilityWarning)
        rows = measured(pipeline("sd1", tmp_path), ROUNDS)
    where = record("overlay_costs", {"rounds": ROUNDS, "rows": rows})
    sys.stdout.write(f"\n{table(rows)}\n{where}\n")
    ratio = {row["with"]: row["step / plain"] for row in rows}
    assert ratio["1 adapter"] <= 1.03
    assert ratio["4 adapters"] <= 1.10
    assert max(ratio["1 projection"], ratio["1 adapter, fused"], ratio["1 projection, fused"]) <= 1.01


def test_at_full_size_there_are_192_and_72_layers() -> None:
    """424,128 values: two vectors and a number for each layer of the UNet, as in the release's files."""
    unet = full_size.unet_of(full_size.SIZES["sd1"])
    layers = unet_layers(unet)
    assert len(layers) == 192
    assert layers["down_blocks_0_attentions_0_proj_in"] == "down_blocks.0.attentions.0.proj_in"
    attention = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert layers[attention] == "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weights: list[Any] = [unet.get_submodule(path).weight for path in layers.values()]
    values = sum(sum(weight.shape[:2]) + 1 for weight in weights)
    assert (values, 3 * len(layers)) == (424_128, 576)
    text = text_layers(full_size.text_encoder_of(full_size.SIZES["sd1"]))
    assert len(text) == 72
    assert {"encoder_layers_0_self_attn_q_proj", "encoder_layers_11_mlp_fc2"} <= text.keys()
