"""What makes the tests quick does not change what they find: copies of a pipeline, and long files without coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from copies import Stock
from coverage import Coverage
from tree import ROOT
from untraced import UNTRACED, tracing_stopped

MakePipe = Callable[..., Any]


def numbers(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in ("text_encoder", "unet", "vae")
        for name, tensor in getattr(pipe, part).state_dict(keep_vars=True).items()
    }


def drawn(pipe: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    images: torch.Tensor = pipe("a red circle", num_inference_steps=1, output_type="pt", generator=draw).images
    return images


def test_a_copy_is_equal_and_shares_nothing(make_pipe: MakePipe) -> None:
    one, other = make_pipe(), make_pipe()
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert type(tensor) is type(second[name])
        assert tensor.requires_grad == second[name].requires_grad
        assert tensor.stride() == second[name].stride()
        assert tensor.data_ptr() != second[name].data_ptr()
    assert dict(one.unet.config) == dict(other.unet.config)
    assert one.text_encoder.config.to_dict() == other.text_encoder.config.to_dict()
    assert one.tokenizer("a red circle").input_ids == other.tokenizer("a red circle").input_ids
    expected = drawn(other)
    with torch.no_grad():
        one.unet.conv_in.weight.zero_()
    one.tokenizer.add_tokens(["<thing>"])
    one.text_encoder.config.output_hidden_states = True
    assert torch.equal(drawn(other), expected)
    assert torch.equal(drawn(make_pipe()), expected)
    assert len(other.tokenizer) + 1 == len(one.tokenizer)
    assert not other.text_encoder.config.output_hidden_states


def test_other_arguments_are_another_pipeline(make_pipe: MakePipe) -> None:
    usual, seeded, wide = make_pipe(), make_pipe(seed=1), make_pipe(width=32)
    assert not torch.equal(usual.unet.conv_in.weight, seeded.unet.conv_in.weight)
    assert (usual.unet.config.cross_attention_dim, wide.unet.config.cross_attention_dim) == (16, 32)


def test_a_parameter_in_two_places_is_one_in_a_copy() -> None:
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    second.weight = first.weight
    first.weight.note = "kept"  # type: ignore[attr-defined]  # as transformers notes what it has initialised
    made: Any = Stock([first, second]).copy()
    assert made[0].weight is made[1].weight
    assert made[0].weight.note == "kept"
    assert made[0].weight is not first.weight


def test_tensors_that_share_memory_share_it_in_a_copy() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    made: Any = Stock([whole, whole[1], whole.T]).copy()
    assert torch.equal(made[2], whole.T)
    made[0][1, 0] = 7
    assert (float(made[1][0]), float(made[2][0, 1])) == (7, 7)
    assert float(whole[1, 0]) == 3


def test_every_file_that_is_not_traced_exists() -> None:
    assert [name for name in UNTRACED if not (ROOT / name).is_file()] == []
    assert list(UNTRACED) == sorted(set(UNTRACED))


def test_coverage_stops_for_a_block_and_goes_on() -> None:
    measured = Coverage(data_file=None)
    measured.start()
    try:
        with tracing_stopped():
            assert Coverage.current() is not measured
        assert Coverage.current() is measured
        with pytest.raises(KeyError), tracing_stopped():
            raise KeyError
        assert Coverage.current() is measured
    finally:
        measured.stop()
