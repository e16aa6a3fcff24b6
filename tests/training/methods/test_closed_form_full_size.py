"""The closed forms as one matrix against the edit of all 32 K and V matrices, at the size of Stable Diffusion 1.4.

Study: ``pytest -m slow -s tests/training/methods/test_closed_form_full_size.py``. Random weights; takes about 5 GiB.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from full_size import SIZES, filled, text_encoder_of, unet_of
from recorded import record, table
from tiny_models import make_tokenizer
from torch import Tensor

from robust_encoders import Concept
from robust_encoders.overlays.projection import key_value_layers, projected
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.cross_attention import GramMatrix
from robust_encoders.training.methods import DP, MACE, RECE, SPEED, TRCE, UCE
from robust_encoders.training.methods.closed_form import Moments, RidgeConfig, adversarial_step, solve
from robust_encoders.training.methods.speed import unchanged_rows

KEPT = (
    "a blue square",
    "a dotted green triangle on black",
    "an orange ring on gray",
    "van gogh",
    "a church",
    "a photo",
)
ASKED = ("nudity", "a picture of nudity", "", "a church and a yellow star", "a purple cross on brown")
NUDITY = Concept(name="nudity", kind="content", anchor="a photo")
LENGTH, WIDTH, BATCH = 77, 768, 64


class Times(NamedTuple):
    """Seconds of the parts of a solve."""

    sums: float
    uce: float
    rece: float


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    from diffusers import DDIMScheduler

    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"), max_length=LENGTH)
    encoder = filled(text_encoder_of(SIZES["sd1"], tokenizer), torch.float32)
    scheduler: Any = DDIMScheduler()
    return Backbone(tokenizer, encoder, filled(unet_of(SIZES["sd1"]), torch.float32), scheduler)


def hidden(backbone: Backbone, texts: tuple[str, ...]) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone.condition(texts).double()
    return found


def edited(w: Tensor, c: Tensor, t: Tensor, kept: Tensor, weights: RidgeConfig) -> Tensor:
    """The ridge regression of one matrix with targets W t, as the authors solve it."""
    eye = torch.eye(WIDTH, dtype=torch.float64)
    a, p = weights.erase_scale, weights.preserve_scale
    left = weights.lamb * w + a * (t @ w.T).T @ c + p * (kept @ w.T).T @ kept
    new: Tensor = left @ torch.inverse(weights.lamb * eye + a * c.T @ c + p * kept.T @ kept)
    return new


def naive(backbone: Backbone, method: RECE) -> list[Tensor]:
    """All 32 matrices, each edited on its own: UCE's solve, then RECE's epochs."""
    old = [layer.weight.detach().double() for layer in key_value_layers(backbone.unet).values()]
    c, t = hidden(backbone, ("nudity", "a photo"))
    kept = hidden(backbone, ("", *KEPT)).flatten(0, 1)
    i, j = (sum(backbone.tokenizer(text).attention_mask) - 2 for text in ("nudity", "a photo"))
    n = LENGTH - max(i, j)
    new = [edited(w, c[i : i + n], t[j : j + n], kept, method.start.weights) for w in old]
    for _ in range(method.epochs):
        left = method.regulariser * torch.eye(WIDTH, dtype=torch.float64) + sum(w.T @ w for w in new)
        right: Any = sum(w.T @ o for w, o in zip(new, old, strict=True))
        derived = c @ (torch.inverse(left) @ right).T
        new = [edited(w, derived, t, kept, method.weights) for w in new]
    return new


def gap(backbone: Backbone, expected: list[Tensor], matrix: Tensor) -> tuple[float, float]:
    """Relative Frobenius distance of all K and V outputs in fp32: of all layers together, and of the worst layer."""
    text = hidden(backbone, ASKED).float().flatten(0, 1)
    new = projected(text, matrix)
    squares = []
    with torch.no_grad():
        for layer, weight in zip(key_value_layers(backbone.unet).values(), expected, strict=True):
            ours, theirs = layer(new), text @ weight.float().T
            squares.append((float((ours - theirs).double().square().sum()), float(theirs.double().square().sum())))
    worst = max((a / b) ** 0.5 for a, b in squares)
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5, worst


def timed(preserved: int, gram: Tensor) -> Times:
    """Seconds of each solve, with conditionings as they come from an encoder: layer-normed, all tokens preserved."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.layer_norm(torch.randn(preserved, LENGTH, WIDTH, generator=generator), (WIDTH,))
    c, t = torch.nn.functional.layer_norm(torch.randn(2, LENGTH, WIDTH, generator=generator), (WIDTH,))
    method, seconds = RECE(), []

    def clock(work: Callable[[], Any], times: int = 3) -> Any:
        """Keep the best of a few times: others may be using the machine."""
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            found = work()
            taken.append(time.perf_counter() - started)
        seconds.append(min(taken))
        return found

    def sums() -> tuple[Moments, Moments]:
        kept = Moments.none(WIDTH)
        for i in range(0, preserved, BATCH):
            kept += Moments.of(texts[i : i + BATCH].flatten(0, 1))
        return Moments.of(c, t), kept

    def epochs(matrix: Tensor) -> Tensor:
        for _ in range(method.epochs):
            matrix = matrix @ adversarial_step(
                matrix, erase, kept, gram=gram, regulariser=method.regulariser, weights=method.weights
            )
        return matrix

    erase, kept = clock(sums, 1)
    matrix = clock(lambda: solve(erase, kept, method.start.weights))
    clock(lambda: epochs(matrix))
    return Times(*seconds)


@pytest.mark.slow
def test_one_matrix_is_the_edit_of_all_32(backbone: Backbone, tmp_path: Path) -> None:
    assert len(key_value_layers(backbone.unet)) == 32
    start = UCE(tokens="from_last", preserve=KEPT)
    methods: dict[str, UCE | RECE] = {
        "uce": start, "rece, 1 epoch": RECE(start=start, epochs=1), "rece, 3 epochs": RECE(start=start),
    }  # fmt: skip
    gaps: list[dict[str, Any]] = []
    for name, method in methods.items():
        matrix = method.erase(backbone, NUDITY, generator=torch.Generator()).tensors["projection"]
        expected = naive(backbone, method if isinstance(method, RECE) else RECE(start=method, epochs=0))
        whole, worst = gap(backbone, expected, matrix)
        away = float((matrix - torch.eye(WIDTH)).norm())
        gaps.append({"edit": name, "all layers": whole, "worst layer": worst, "||M - I||": away})

    started = time.perf_counter()
    gram = GramMatrix.of(backbone.unet, tmp_path).gram
    cold = time.perf_counter() - started
    started = time.perf_counter()
    GramMatrix.of(backbone.unet, tmp_path)
    warm = time.perf_counter() - started
    times = {n: timed(n, gram) for n in (1, 1000)}
    rows = [
        {
            "preserved concepts": n,
            "sums, s": found.sums,
            "UCE's solve, s": found.uce,
            "RECE's 3 epochs, s": found.rece,
            "all, s": sum(found),
        }
        for n, found in times.items()
    ]
    found = {"gaps": gaps, "times": rows, "statistics": {"computed": cold, "from the cache": warm}}
    where = record("closed_form_full_size", found)
    sys.stdout.write(f"\n{table(gaps)}\n\n{table(rows)}\nG: {cold:.2f} s, from the cache {warm:.2f} s\n{where}\n")
    assert all(row["worst layer"] <= 1e-5 for row in gaps)
    assert sum(times[1]) < 1
    assert sum(times[1000]) < 10


def last(backbone: Backbone, text: str) -> tuple[Tensor, int]:
    """All vectors of a prompt, and the position of its last token."""
    return hidden(backbone, (text,))[0], sum(backbone.tokenizer(text).attention_mask) - 2


def speed_of(backbone: Backbone, method: SPEED) -> Callable[[Tensor], Tensor]:
    """SPEED's edit of one matrix, with every factor of the published expression."""
    (c, i), (t, j) = (last(backbone, text) for text in ("nudity", "a photo"))
    eye, second, cross = torch.eye(WIDTH, dtype=torch.float64), torch.outer(c[i], c[i]), torch.outer(t[j], c[i])
    kept = torch.stack([h[at] for h, at in (last(backbone, text) for text in KEPT)])
    invariants = unchanged_rows(hidden(backbone, ("",))[0]).T

    def edit(w: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(kept.T @ kept / len(kept))
        p = vectors[:, values < method.threshold] @ vectors[:, values < method.threshold].T
        n = torch.inverse(second @ p + method.retain_scale * eye)
        held = torch.inverse(invariants.T @ p @ n @ invariants + method.lamb * torch.eye(4, dtype=torch.float64))
        new: Tensor = w + w @ (cross - second) @ p @ (eye - n @ invariants @ held @ invariants.T @ p) @ n
        return new

    return edit


def dp_of(backbone: Backbone, method: DP) -> Callable[[Tensor], Tensor]:
    """DP's edit of one matrix, with the null space of the preserved vectors."""
    (c, i), (t, j) = (last(backbone, text) for text in ("nudity", "a photo"))
    source, safe = c[i], t[j]
    target = safe * (safe @ source) / (safe @ safe)
    kept = torch.stack([h[at] for h, at in (last(backbone, text) for text in method.preserve)]).T

    def edit(w: Tensor) -> Tensor:
        free = torch.linalg.svd(kept).U[:, kept.shape[1] :]
        x = free.T @ source
        new: Tensor = w + torch.outer(w @ (target - source), x) @ free.T / x.square().sum()
        return new

    return edit


def pairs_of(backbone: Backbone, method: TRCE | MACE) -> Callable[[Tensor], Tensor]:
    """The regression of TRCE's or MACE's first stage for one matrix, on the pair of the bare words."""
    (c, i), (t, j) = (last(backbone, text) for text in ("nudity", "a photo"))
    n = LENGTH - 1 - max(i, j)
    rows = [(c[:1], t[:1]), (c[i + 1 : i + 1 + n], t[j + 1 : j + 1 + n])]
    rows = rows if isinstance(method, MACE) else [(c[i + 1 : i + 2], t[j + 1 : j + 2])]
    own, other = (torch.cat(list(part)) for part in zip(*rows, strict=True))
    kept = hidden(backbone, method.preserve).flatten(0, 1)
    weights = RidgeConfig(lamb=method.lamb, preserve_scale=method.preserve_scale / len(method.preserve))
    return lambda w: edited(w, own, other, kept, weights)


@pytest.mark.slow
def test_the_family_is_the_edit_of_all_32(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", time.process_time)  # others may be using the machine
    speed = SPEED(component="text_encoder", preserve=KEPT, lamb=0.5)
    dp = DP(preserve=KEPT)
    trce, mace = TRCE(preserve=KEPT, templates=1, lamb=0.5), MACE(preserve=KEPT, templates=1, lamb=0.5)
    family: dict[Any, Callable[[Tensor], Tensor]] = {
        speed: speed_of(backbone, speed), dp: dp_of(backbone, dp), trce: pairs_of(backbone, trce),
        mace: pairs_of(backbone, mace),
    }  # fmt: skip
    old = [layer.weight.detach().double() for layer in key_value_layers(backbone.unet).values()]
    rows: list[dict[str, Any]] = []
    for method, edit in family.items():
        made = method.erase(backbone, NUDITY, generator=torch.Generator())
        started = time.process_time()
        expected = [edit(w) for w in old]
        naive = time.process_time() - started
        matrix = made.tensors["projection"]
        whole, worst = gap(backbone, expected, matrix)
        away = float((matrix - torch.eye(WIDTH)).norm())
        rows.append(
            {
                "edit": method.name,
                "all layers": whole,
                "worst layer": worst,
                "||M - I||": away,
                "one matrix, processor s": made.log["seconds_solving"],
                "32 matrices, processor s": naive,
            }
        )
    started = time.process_time()
    delta = SPEED(preserve=KEPT).erase(backbone, NUDITY, generator=torch.Generator().manual_seed(0))
    published = {"values": len(delta.tensors), "processor s": time.process_time() - started}
    where = record("closed_family_full_size", {"rows": rows, "SPEED as published": published})
    sys.stdout.write(f"\n{table(rows)}\n{published}\n{where}\n")
    assert all(row["worst layer"] <= 1e-5 for row in rows)
    assert len(delta.tensors) == 16
