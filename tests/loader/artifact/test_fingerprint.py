"""Sketches tell bases apart and forgive precision; hashes tell every bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import (
    SketchComparison,
    TensorSketch,
    compare,
    content_sha256,
    sketch,
    tokenizer_fingerprint,
)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "wide": torch.randn(40, 50, generator=generator),
        "bias": torch.randn(5, generator=generator),
        "scale": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
    }


def test_a_sketch_holds_strided_values_with_both_ends(weights: dict[str, Tensor]) -> None:
    made = sketch(weights)
    assert list(made) == sorted(weights)
    assert made["wide"].shape == (40, 50)
    assert made["wide"].dtype == "float32"
    assert len(made["wide"].values) == 8
    assert made["wide"].values[0] == pytest.approx(weights["wide"][0, 0].item())
    assert made["wide"].values[-1] == pytest.approx(weights["wide"][-1, -1].item())
    assert made["bias"].values == pytest.approx(weights["bias"].tolist())
    assert made["scale"].values == (2.0,)
    assert made["empty"].values == ()


def test_sketched_values_are_exact_float32(weights: dict[str, Tensor]) -> None:
    assert torch.equal(torch.tensor(sketch(weights)["bias"].values), weights["bias"])


def test_the_same_weights_are_the_same(weights: dict[str, Tensor]) -> None:
    assert compare(sketch(weights), sketch({k: v.clone() for k, v in weights.items()})) == SketchComparison("same", 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loaded_as", ["half", "float32"])
def test_rounded_weights_are_the_same_up_to_dtype(
    weights: dict[str, Tensor], dtype: torch.dtype, loaded_as: str
) -> None:
    rounded = {name: tensor.to(dtype) for name, tensor in weights.items()}
    if loaded_as == "float32":
        rounded = {name: tensor.float() for name, tensor in rounded.items()}
    for found, expected in ((rounded, weights), (weights, rounded)):
        verdict = compare(sketch(found), sketch(expected))
        assert verdict.kind == "same up to dtype"
        assert 0 < verdict.distance < 2**-7
        assert str(verdict) == "same up to dtype"


def test_a_cast_that_loses_nothing_is_the_same_up_to_dtype(weights: dict[str, Tensor]) -> None:
    wider = {name: tensor.double() for name, tensor in weights.items()}
    assert compare(sketch(wider), sketch(weights)).kind == "same up to dtype"


def test_a_small_fine_tuning_differs_by_its_size(weights: dict[str, Tensor]) -> None:
    tuned = {name: tensor * 1.0001 for name, tensor in weights.items()}
    verdict = compare(sketch(tuned), sketch(weights))
    assert verdict.kind == "differs"
    assert verdict.distance == pytest.approx(1e-4, rel=0.01)
    assert str(verdict) == "differs by 0.0001 (relative)"


def test_a_fused_low_rank_change_of_one_matrix_is_seen(weights: dict[str, Tensor]) -> None:
    fused = dict(weights)
    fused["wide"] = weights["wide"] + 0.01 * torch.ones(40, 1) @ torch.ones(1, 50)
    assert compare(sketch(fused), sketch(weights)).kind == "differs"


def test_a_change_against_zeros_is_infinitely_far() -> None:
    verdict = compare(sketch({"a": torch.ones(2)}), sketch({"a": torch.zeros(2)}))
    assert (verdict.kind, verdict.distance) == ("differs", math.inf)


def test_other_names_and_shapes_are_named(weights: dict[str, Tensor]) -> None:
    other = {"wide": torch.zeros(2, 3), "new": torch.zeros(1), "bias": weights["bias"], "scale": weights["scale"]}
    verdict = compare(sketch(other), sketch(weights))
    assert (verdict.kind, verdict.distance) == ("differs", math.inf)
    assert "1 tensors missing (empty, ...)" in str(verdict)
    assert "1 tensors too many (new, ...)" in str(verdict)
    assert "wide: (2, 3) instead of (40, 50)" in str(verdict)


def test_a_tensor_sketch_has_a_json_form() -> None:
    assert TensorSketch((2,), "float32", (0.5, 1.0)).to_dict() == {
        "shape": [2],
        "dtype": "float32",
        "values": [0.5, 1.0],
    }


def test_content_hash_depends_on_content_alone(weights: dict[str, Tensor]) -> None:
    reversed_order = {name: weights[name].clone() for name in reversed(weights)}
    transposed_twice = {**weights, "wide": weights["wide"].t().contiguous().t()}
    assert content_sha256(weights) == content_sha256(reversed_order) == content_sha256(transposed_twice)


@pytest.mark.parametrize("change", ["bit", "name", "shape", "dtype"])
def test_content_hash_sees_every_change(weights: dict[str, Tensor], change: str) -> None:
    changed = dict(weights)
    if change == "bit":
        changed["bias"] = weights["bias"].clone()
        changed["bias"].view(torch.int32)[0] ^= 1
    elif change == "name":
        changed["bias2"] = changed.pop("bias")
    elif change == "shape":
        changed["bias"] = weights["bias"].reshape(5, 1)
    else:
        changed["scale"] = weights["scale"].to(torch.bfloat16)
    assert content_sha256(changed) != content_sha256(weights)


def test_content_hash_reads_half_precision(weights: dict[str, Tensor]) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    assert content_sha256(half) == content_sha256({name: tensor.clone() for name, tensor in half.items()})


def test_a_tokenizer_is_known_by_its_words(make_pipe: Callable[..., Any]) -> None:
    same, again = (tokenizer_fingerprint(make_pipe().tokenizer) for _ in range(2))
    assert same == again
    assert same != tokenizer_fingerprint(make_pipe(merges=40).tokenizer)
    assert same.max_length == 24
    assert same.special_ids["eos"] == same.special_ids["pad"]


def test_added_tokens_do_not_change_a_tokenizers_words(make_pipe: Callable[..., Any]) -> None:
    assert tokenizer_fingerprint(make_pipe(extra_tokens=3).tokenizer) == tokenizer_fingerprint(make_pipe().tokenizer)


def test_a_tokenizer_without_padding_says_so(tiny_pipe: Any) -> None:
    tiny_pipe.tokenizer.pad_token = None
    assert tokenizer_fingerprint(tiny_pipe.tokenizer).special_ids["pad"] == -1
