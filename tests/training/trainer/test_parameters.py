from __future__ import annotations

from typing import Any

import pytest
from transformers import CLIPTextConfig, CLIPTextModel

from robust_encoders.training.trainer.parameters import SelectionConfig

LAYERS = 12


@pytest.fixture(scope="module")
def encoder() -> Any:
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=4, intermediate_size=4, num_hidden_layers=LAYERS, num_attention_heads=1
    )
    return CLIPTextModel(config)


def layers_of(names: Any) -> set[int]:
    return {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}


def test_everything_but_the_embeddings_by_default(encoder: Any) -> None:
    chosen = SelectionConfig().select(encoder)
    everything = {name for name, _ in encoder.named_parameters()}
    assert everything - set(chosen) == {name for name in everything if "embeddings." in name}
    assert layers_of(chosen) == set(range(LAYERS))


@pytest.mark.parametrize("wanted", [(0,), (1,), (1, 10), (0, 1, 2)])
def test_layers_are_exact(encoder: Any, wanted: tuple[int, ...]) -> None:
    chosen = SelectionConfig(layers=wanted, final_norm=False).select(encoder)
    assert layers_of(chosen) == set(wanted)
    assert len(chosen) == 16 * len(wanted)


@pytest.mark.parametrize(("part", "mark", "count"), [("attention", ".self_attn.", 8), ("mlp", ".mlp.", 4)])
def test_parts_are_exact(encoder: Any, part: Any, mark: str, count: int) -> None:
    chosen = SelectionConfig(layers=(3,), part=part, final_norm=False).select(encoder)
    assert len(chosen) == count
    assert all(mark in name for name in chosen)


def test_the_final_norm_is_apart_from_the_layers(encoder: Any) -> None:
    chosen = SelectionConfig(layers=(), final_norm=True).select(encoder)
    assert sorted(name.split(".")[-2:] for name in chosen) == [
        ["final_layer_norm", "bias"],
        ["final_layer_norm", "weight"],
    ]


def test_the_parameters_are_the_models_own(encoder: Any) -> None:
    own = dict(encoder.named_parameters())
    assert all(own[name] is parameter for name, parameter in SelectionConfig(layers=(0,)).select(encoder).items())


def test_what_selects_nothing_is_refused(encoder: Any) -> None:
    with pytest.raises(ValueError, match="found none"):
        SelectionConfig(layers=(), final_norm=False).select(encoder)


@pytest.mark.parametrize(
    "selection",
    [
        SelectionConfig(layers=(0, 12)),
        SelectionConfig(layers=(-1,)),
        SelectionConfig(part="ffn"),  # type: ignore[arg-type]
    ],
)
def test_unknown_layers_and_parts_are_refused(encoder: Any, selection: SelectionConfig) -> None:
    with pytest.raises(ValueError, match=r"expected layers among \[0, 1, .* 11\]"):
        selection.select(encoder)
