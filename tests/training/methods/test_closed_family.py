"""SPEED, DP and the first stages of TRCE and MACE: one matrix against the edit of every key and value matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders import Concept
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import DP, MACE, METHODS, SPEED, TRCE
from robust_encoders.training.methods.closed_form import (
    Moments,
    RidgeConfig,
    double_projection,
    free_below,
    free_beyond,
    least_change,
    most_changed,
    project_edit,
    solve,
)
from robust_encoders.training.methods.paired_vectors import beside, differing, prompt_pairs
from robust_encoders.training.methods.speed import PriorConfig, unchanged_rows
from robust_encoders.training.protocols import ComponentMethod, DistributedMethod

CIRCLE = Concept(name="circle", kind="object", anchor="square", synonyms=("disc",))
WORDY = Concept(name="zigzag wreath", kind="object", anchor="star")  # several tokens a word
KEPT = ("a blue star", "a black background", "an orange ring on gray", "a church")
Closed = SPEED | DP | TRCE | MACE
PLAIN = PriorConfig(filter=False, copies=0)
EYE = torch.eye(16, dtype=torch.float64)


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(method: Closed, backbone: Backbone, concept: Concept = CIRCLE) -> Tensor:
    edit = method.erase(backbone, concept, generator=Generator())
    assert (edit.form, edit.component, list(edit.tensors)) == ("projection", "text_encoder", ["projection"])
    return edit.tensors["projection"].double()


def hidden(backbone: Backbone, text: str) -> Tensor:
    with torch.no_grad():
        return backbone.condition([text])[0].double()


def count(backbone: Backbone, text: str) -> int:
    """Number of tokens between begin and end, as the tokenizer itself counts."""
    return int(sum(backbone.tokenizer(text).attention_mask)) - 2


def last(backbone: Backbone, text: str) -> Tensor:
    return hidden(backbone, text)[count(backbone, text)]


def matrices(backbone: Backbone, part: str = "") -> dict[str, Tensor]:
    layers = key_value_layers(backbone.unet)
    return {name: layer.weight.detach().double() for name, layer in layers.items() if name.endswith(part)}


def agrees(backbone: Backbone, found: Tensor, naive: dict[str, Tensor]) -> None:
    for name, w in matrices(backbone).items():
        torch.testing.assert_close(w @ found, naive[name], rtol=1e-4, atol=1e-5)


# SPEED


def speed_edit(backbone: Backbone, w: Tensor, method: SPEED) -> Tensor:
    """The published expression for one matrix, with every factor written out."""
    c, t = (torch.stack([last(backbone, text) for text in texts]) for texts in (("circle", "disc"), ("square",) * 2))
    second, cross = c.T @ c / 2, t.T @ c / 2
    kept = torch.stack([last(backbone, text) for text in KEPT])
    u, s, _ = torch.linalg.svd(kept.T @ kept / len(kept))
    p = u[:, s < method.threshold] @ u[:, s < method.threshold].T
    n = torch.inverse(second @ p + method.retain_scale * EYE)
    k = unchanged_rows(hidden(backbone, "")).T
    held = torch.inverse(k.T @ p @ n @ k + method.lamb * torch.eye(4, dtype=torch.float64))
    new: Tensor = w + w @ (cross - second) @ p @ (EYE - n @ k @ held @ k.T @ p) @ n
    return new


@pytest.mark.parametrize("lamb", [0.0, 0.5])
def test_speed_on_the_text_encoder_is_the_published_edit_of_keys_and_values(backbone: Backbone, lamb: float) -> None:
    method = SPEED(component="text_encoder", preserve=KEPT, retain_scale=0.7, lamb=lamb)
    found = matrix(method, backbone)
    assert float((found - EYE).norm()) > 0.1
    agrees(backbone, found, {name: speed_edit(backbone, w, method) for name, w in matrices(backbone).items()})


def test_speed_as_published_edits_values_alone(backbone: Backbone) -> None:
    """A reading of the paper without its settings edits the keys, too, which is another method."""
    method = SPEED(preserve=KEPT, prior=PLAIN, lamb=0.5)
    edit = method.erase(backbone, CIRCLE, generator=Generator())
    values = matrices(backbone, "to_v")
    assert (edit.form, edit.component, set(edit.tensors)) == ("delta", "unet", {f"{name}.weight" for name in values})
    for name, w in values.items():
        torch.testing.assert_close(
            edit.tensors[f"{name}.weight"].double(), speed_edit(backbone, w, method), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="keep it as an edit of the UNet"):
        project_edit(backbone.unet, edit.tensors)


def test_speed_keeps_the_empty_prompt_and_what_is_preserved(backbone: Backbone) -> None:
    found = matrix(SPEED(component="text_encoder", preserve=KEPT), backbone)
    start = hidden(backbone, "")[0]
    torch.testing.assert_close(start @ found.T, start, rtol=1e-4, atol=1e-4)
    loose = matrix(SPEED(component="text_encoder", preserve=KEPT, lamb=10.0), backbone)
    assert float((start @ loose.T - start).norm()) > 10 * float((start @ found.T - start).norm())
    moved = [float((last(backbone, text) @ found.T - last(backbone, text)).norm()) for text in ("circle", *KEPT)]
    assert moved[0] > max(moved[1:])


def test_speeds_filter_takes_what_the_edit_changes_more_than_on_average() -> None:
    c, t, kept, w = random(2, 16), random(2, 16, seed=1), random(30, 16, seed=2), random(5, 16, seed=3)
    edit = w @ (t.T @ c - c.T @ c) @ torch.inverse(EYE + c.T @ c)
    changes = [float((edit @ q).norm()) for q in kept]
    expected = [q for q, change in zip(kept, changes, strict=True) if change > sum(changes) / 30]
    assert torch.equal(most_changed(kept, Moments.of(c, t), w), torch.stack(expected))
    assert torch.equal(most_changed(kept[:1], Moments.of(c, t), w), kept[:1])


def test_speeds_copies_differ_where_the_matrix_passes_on_least() -> None:
    kept, w, moved = random(6, 16), random(5, 16, seed=3), Moments.of(random(2, 16, seed=1), random(2, 16, seed=2))
    method = SPEED(prior=PriorConfig(filter=False, copies=3))
    found = method.preserved(kept, moved, w, generator=Generator().manual_seed(0))
    assert found.shape == (24, 16)
    assert torch.equal(found[:6], kept)
    noise = found[6:] - kept.repeat(3, 1)
    least = torch.linalg.svd(w, full_matrices=False).S[-1]
    torch.testing.assert_close((noise @ w.T).norm(dim=1), least * noise.norm(dim=1))
    filtered = SPEED().preserved(kept, moved, w, generator=Generator().manual_seed(0))
    assert len(filtered) < 11 * 6


def test_speeds_filter_and_copies_change_the_result(backbone: Backbone) -> None:
    plain, full = (
        SPEED(preserve=KEPT, prior=prior).erase(backbone, CIRCLE, generator=Generator().manual_seed(0)).tensors
        for prior in (PLAIN, PriorConfig())
    )
    assert any(not torch.allclose(plain[name], full[name], atol=1e-4) for name in plain)


def test_speeds_centres_are_means_of_their_tokens() -> None:
    groups = torch.tensor([[0.0], [10.0], [30.0]]).repeat_interleave(5, 0) + torch.linspace(0, 1, 15)[:, None]
    found = unchanged_rows(torch.cat([torch.tensor([[-7.0]]), groups]))
    torch.testing.assert_close(found, torch.cat([torch.tensor([[-7.0]]), groups.view(3, 5, 1).mean(1)]))


def test_speed_follows_its_component() -> None:
    method = SPEED(prior=PLAIN)
    assert isinstance(method, ComponentMethod)
    assert method.for_component("text_encoder") == SPEED(component="text_encoder")
    assert SPEED(component="text_encoder").for_component("unet") == SPEED()
    assert method.for_component("text_encoder_2") == method


# DP


def test_dp_is_the_published_edit_of_every_matrix(backbone: Backbone) -> None:
    star = Concept(name="star", kind="object", anchor="square")
    c, s = last(backbone, "star"), torch.stack([last(backbone, text) for text in ("square", "a photo")]).T  # (D, 2)
    target = s @ torch.linalg.pinv(s.T @ s) @ s.T @ c
    kept = torch.stack([last(backbone, text) for text in KEPT]).T  # (D, m)
    free = torch.linalg.svd(kept).U[:, kept.shape[1] :]
    x = free.T @ c
    naive = {
        name: w + torch.outer(w @ (target - c), x) @ free.T / x.square().sum() for name, w in matrices(backbone).items()
    }
    agrees(backbone, matrix(DP(preserve=KEPT, safe=("a photo",)), backbone, star), naive)


def test_dp_moves_the_concept_all_the_way_and_preserved_vectors_not_at_all(backbone: Backbone) -> None:
    found = matrix(DP(preserve=KEPT, target="anchor"), backbone)
    for text in KEPT:
        torch.testing.assert_close(last(backbone, text) @ found.T, last(backbone, text), rtol=1e-4, atol=1e-4)
    for word in ("circle", "disc"):
        torch.testing.assert_close(last(backbone, word) @ found.T, last(backbone, "square"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_dps_error_on_preserved_vectors_is_bounded_by_the_next_singular_value(rank: int) -> None:
    """Theorem 4.2 of the paper; a null space taken from the wrong end of the spectrum would break it."""
    c, t, kept, w = random(16), random(16, seed=1), random(40, 16, seed=2) * torch.logspace(0, -2, 16), random(5, 16)
    free = free_beyond(kept.T @ kept, rank)
    assert free.shape == (16, 16 - rank)
    x = free.T @ c
    z = torch.outer(w @ (t - c), x) / x.square().sum()
    found = double_projection(Moments.of(c[None], t[None]), free)
    torch.testing.assert_close(w @ found, w + z @ free.T)
    bound = float(torch.linalg.matrix_norm(z, 2) * torch.linalg.svdvals(kept)[rank])
    changes = (kept @ (w @ found - w).T).norm(dim=1)
    assert 0 < float(changes.max()) <= bound


def test_dp_without_preserved_prompts_and_with_one_target_is_uce_without_its_ridge() -> None:
    c, t = random(1, 16), random(1, 16, seed=1)
    found = double_projection(Moments.of(c, t), free_beyond(torch.zeros(16, 16, dtype=torch.float64)))
    uce = solve(Moments.of(c, t), Moments.none(16), RidgeConfig(lamb=1e-8))
    torch.testing.assert_close(found, uce, rtol=1e-6, atol=1e-6)


def test_preserved_prompts_that_leave_nothing_free_are_refused() -> None:
    with pytest.raises(ValueError, match="found none of 16: choose a smaller rank, or preserve fewer prompts"):
        free_beyond(EYE)
    with pytest.raises(ValueError, match="found none of 16: raise the threshold, or preserve fewer prompts"):
        free_below(EYE, 0.5)
    assert free_beyond(EYE, 15).shape == free_below(EYE - 0.6 * torch.outer(EYE[0], EYE[0]), 0.5).shape == (16, 1)


# TRCE and MACE


def pairs_edit(backbone: Backbone, rows: list[tuple[Tensor, Tensor, float]], method: TRCE | MACE, w: Tensor) -> Tensor:
    """The regression of one matrix, pair by pair; the preserved part is a mean over prompts."""
    left, right = method.lamb * w, method.lamb * EYE
    for c, t, weight in rows:
        left, right = left + weight * torch.outer(w @ t, c), right + weight * torch.outer(c, c)
    for text in method.preserve:
        q = hidden(backbone, text)
        share = method.preserve_scale / len(method.preserve)
        left, right = left + share * (w @ q.T) @ q, right + share * q.T @ q
    return left @ torch.inverse(right)


def test_trce_aligns_the_first_end_token_in_every_matrix(backbone: Backbone) -> None:
    """Counted in words, as the authors' program counts, the row would lie inside the concept."""
    method = TRCE(templates=2, preserve=KEPT, lamb=0.3, start_weight=0.25, padding_weight=0.5, key_weight=2.0)
    rows = []
    for frame in ("{}", "a photo of {}"):
        one, other = frame.format("zigzag wreath"), frame.format("star")
        c, t = hidden(backbone, one), hidden(backbone, other)
        n, m = count(backbone, one), count(backbone, other)
        assert n > len(one.split())
        rows += [(c[0], t[0], 0.25), (c[n + 1], t[m + 1], 1.0), (c[-1], t[-1], 0.5 * (24 - n - 2)), (c[n], t[m], 2.0)]
    found = matrix(method, backbone, WORDY)
    agrees(backbone, found, {name: pairs_edit(backbone, rows, method, w) for name, w in matrices(backbone).items()})


def test_trce_by_default_moves_end_tokens_alone(backbone: Backbone) -> None:
    method = TRCE(templates=1, preserve=KEPT, lamb=0.3)
    c, t = hidden(backbone, "zigzag wreath"), hidden(backbone, "star")
    rows = [(c[count(backbone, "zigzag wreath") + 1], t[count(backbone, "star") + 1], 1.0)]
    found = matrix(method, backbone, WORDY)
    agrees(backbone, found, {name: pairs_edit(backbone, rows, method, w) for name, w in matrices(backbone).items()})


def test_mace_moves_every_row_beside_the_concepts_tokens_in_every_matrix(backbone: Backbone) -> None:
    concept = Concept(name="zigzag", kind="object", anchor="a star", prompts=("a red zigzag on black",))
    one, other = concept.prompts[0], "a red a star on black"
    c, t = hidden(backbone, one), hidden(backbone, other)
    before = 1 + count(backbone, "a red")
    end, end_other = before + count(backbone, "zigzag"), before + count(backbone, "a star")
    assert end - before > 1
    n = 24 - max(end, end_other)
    rows = [(c[i], t[i], 1.0) for i in range(before)] + [(c[end + i], t[end_other + i], 1.0) for i in range(n)]
    method = MACE(texts="prompts", preserve=KEPT, lamb=0.3)
    found = matrix(method, backbone, concept)
    agrees(backbone, found, {name: pairs_edit(backbone, rows, method, w) for name, w in matrices(backbone).items()})


@pytest.mark.parametrize(
    ("own", "other", "spans"),
    [
        ((5, 6, 7), (5, 8, 7), ((2, 3), (2, 3))),
        ((5, 6, 6, 7), (5, 6, 7), ((3, 4), (3, 3))),
        ((5,), (), ((1, 2), (1, 1))),
        ((6, 5, 7), (7,), ((1, 3), (1, 1))),
    ],
)
def test_prompts_differ_in_one_span_of_tokens(own: Any, other: Any, spans: Any) -> None:
    ids = [torch.tensor([1, *text, *[2] * (8 - len(text))]) for text in (own, other)]
    assert differing(ids[0], ids[1], 2) == spans
    rows, others, weights = beside(ids[0], ids[1], 2)
    assert rows.shape == others.shape == weights.shape
    assert not set(rows.tolist()) & set(range(*spans[0]))
    shared = [(int(ids[0][i]), int(ids[1][j])) for i, j in zip(rows, others, strict=True)]
    assert all(i == j for i, j in shared)


def test_without_a_ridge_the_solution_exists_where_the_sums_are_singular() -> None:
    """Both authors' programs invert the sums themselves, which fails for few preserved prompts."""
    c, t, kept = random(2, 16), random(2, 16, seed=1), random(3, 16, seed=2)
    erase, preserve = Moments.of(c, t), Moments.of(kept)
    assert int(torch.linalg.matrix_rank(erase.second + preserve.second)) == 5
    found = least_change(erase, preserve)
    torch.testing.assert_close(c @ found.T, t, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kept @ found.T, kept, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, solve(erase, preserve, RidgeConfig(lamb=1e-9)), rtol=1e-5, atol=1e-5)
    full = Moments.of(random(40, 16, seed=3))
    naive = (erase.cross + full.second) @ torch.inverse(erase.second + full.second)
    torch.testing.assert_close(least_change(erase, full), naive, rtol=1e-8, atol=1e-8)


def test_pairs_name_every_word_and_its_anchor() -> None:
    gogh = Concept(name="van gogh", kind="style")
    pairs = prompt_pairs(Concept.joint((CIRCLE, gogh)), 3)
    assert len(pairs) == 9
    assert ("a photo of disc", "a photo of square") in pairs
    assert ("a painting by van gogh", "a painting by art") in pairs
    captioned = Concept(name="circle", kind="object", prompts=("a red circle",))
    assert prompt_pairs(captioned, 3, captions=True) == [("a red circle", "a red")]


# All


@pytest.mark.parametrize("kind", [SPEED, DP, TRCE, MACE])
def test_they_are_registered_retain_what_is_named_and_log_what_they_did(kind: type[Closed], backbone: Backbone) -> None:
    assert METHODS[kind.name] is kind
    made = kind.standard(KEPT)
    assert made.retained == made.preserve == KEPT
    assert made.retaining(("a",)).retained == ("a",)
    assert made.wants_retained
    assert not isinstance(made, DistributedMethod)
    log = made.erase(backbone, CIRCLE, generator=Generator()).log
    assert (log["moved_vectors"] > 0, log["kept_vectors"] > 0, log["unet_calls"]) == (True, True, 0)
    assert 0 <= log["seconds_solving"] <= log["seconds_total"]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (SPEED, {"threshold": 0.0}, "threshold > 0, retain_scale > 0 and lamb >= 0"),
        (SPEED, {"batch": 0}, "a batch of at least 1"),
        (SPEED, {"component": "text_encoder", "prior": PLAIN}, "leave them out or choose component 'unet'"),
        (PriorConfig, {"copies": -1}, "at least 0 copies"),
        (DP, {"rank": -1}, "a rank of at least 0"),
        (DP, {"target": "anchor", "safe": ("a",)}, "or leave safe prompts out"),
        (TRCE, {"end_weight": 0.0}, "set end_weight to 1"),
        (TRCE, {"key_weight": -1.0}, "weights of rows of at least 0"),
        (TRCE, {"templates": 31}, "expected 1 to 30 templates"),
        (MACE, {"preserve_scale": -1.0}, "preserve_scale >= 0 and lamb >= 0"),
        (MACE, {"lamb": float("nan")}, "preserve_scale >= 0 and lamb >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)
