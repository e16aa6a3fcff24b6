"""What one-dimensional adapters add to the layers of a UNet and of a text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from overlays import adapter_tensors, generator
from torch import Tensor, nn

from robust_encoders import IntegrityError
from robust_encoders.overlays.adapters import (
    ALPHA,
    DOWN,
    TEXT_PREFIX,
    UNET_PREFIX,
    UP,
    Adapter,
    Gates,
    fused_weights,
    hook,
    text_layers,
    unet_layers,
)

EVERYWHERE = (UNET_PREFIX, TEXT_PREFIX)
ROWS = 3


def adapters_for(pipe: Any, n: int, *, rank: int = 1, alpha: float = 1.0) -> list[Adapter]:
    made = []
    for seed in range(n):
        tensors = adapter_tensors(pipe, seed, EVERYWHERE, rank)
        tensors |= {key: torch.tensor(alpha) for key in tensors if key.endswith(ALPHA)}
        made.append(Adapter(tensors, ("a star",), rank, alpha))
    return made


def inputs_of(layer: Any, *, flat: bool = False) -> Tensor:
    g = generator(9)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(ROWS, layer.in_channels, 4, 5, generator=g)
    return torch.randn(ROWS, *([] if flat else [7]), layer.in_features, generator=g)


def naive(layer: Any, x: Tensor, deltas: list[Tensor]) -> Tensor:
    """Row by row, with the whole change of the weight."""
    rows = []
    for row, delta in zip(x, deltas, strict=True):
        weight = layer.weight + delta.view_as(layer.weight)
        one = row.unsqueeze(0)
        given = (
            nn.functional.conv2d(one, weight, layer.bias)
            if one.ndim == 4
            else nn.functional.linear(one, weight, layer.bias)
        )
        rows.append(given)
    return torch.cat(rows)


def vectors(adapter: Adapter, stem: str) -> tuple[Tensor, Tensor]:
    return adapter.tensors[stem + UP].flatten(1), adapter.tensors[stem + DOWN].flatten(1)


@pytest.mark.parametrize("transport", ["paper", "official"])
@pytest.mark.parametrize(("n", "rank", "alpha"), [(1, 1, 1.0), (3, 1, 1.0), (2, 2, 0.5)])
def test_every_layer_gives_what_the_formula_says(
    tiny_pipe: Any, transport: Any, n: int, rank: int, alpha: float
) -> None:
    adapters, gates = adapters_for(tiny_pipe, n, rank=rank, alpha=alpha), Gates(transport)
    scales = torch.linspace(0.5, 1.5, n)
    gates.scales = tuple(scales.tolist())
    value = torch.rand(ROWS, n, generator=generator(5))
    for prefix, root, layers in (
        (UNET_PREFIX, tiny_pipe.unet, unet_layers), (TEXT_PREFIX, tiny_pipe.text_encoder, text_layers)
    ):  # fmt: skip
        hook(root, adapters, prefix, gates)
        for stem, path in layers(root).items():
            layer = root.get_submodule(path)
            both = [vectors(adapter, prefix + stem) for adapter in adapters]
            deltas = []
            for row in value:
                factors = scales * alpha / rank
                if transport == "paper":
                    delta = sum(
                        (f * g * u @ d for f, g, (u, d) in zip(factors, row, both, strict=True)), torch.zeros(())
                    )
                else:
                    up = sum((f * g * u for f, g, (u, _) in zip(factors, row, both, strict=True)), torch.zeros(()))
                    delta = up @ sum((g * d for g, (_, d) in zip(row, both, strict=True)), torch.zeros(()))
                deltas.append(delta)
            for flat in (False, True):
                x = inputs_of(layer, flat=flat)
                gates.value = value
                assert torch.allclose(layer(x), naive(layer, x, deltas), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_gradients_it_is_added_in_place_and_the_same(
    tiny_pipe: Any, n: int, rank: int, layout: torch.memory_format
) -> None:
    gates = Gates(scales=tuple(torch.linspace(0.5, 1.5, n).tolist()))
    hook(tiny_pipe.unet, adapters_for(tiny_pipe, n, rank=rank), UNET_PREFIX, gates)
    gates.value = torch.rand(ROWS, n, generator=generator(5))
    for path in unet_layers(tiny_pipe.unet).values():
        layer = tiny_pipe.unet.get_submodule(path)
        x = inputs_of(layer)
        x = x.contiguous(memory_format=layout) if x.ndim == 4 else x
        expected = layer(x)
        own = next(iter(layer._forward_hooks.values()))
        with torch.no_grad():
            plain = layer.forward(x)
            found = own(layer, (x,), plain)
        assert found.data_ptr() == plain.data_ptr()
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_under_autocast_nothing_is_added_in_place(tiny_pipe: Any) -> None:
    gates = Gates()
    hook(tiny_pipe.unet, adapters_for(tiny_pipe, 1), UNET_PREFIX, gates)
    gates.value = torch.ones(ROWS, 1)
    for path in unet_layers(tiny_pipe.unet).values():
        layer = tiny_pipe.unet.get_submodule(path)
        x = inputs_of(layer)
        with torch.no_grad():
            expected = layer(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = layer(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)


def test_what_an_earlier_hook_has_kept_is_left_as_it_was(tiny_pipe: Any) -> None:
    path = next(path for path in unet_layers(tiny_pipe.unet).values() if path.endswith("to_q"))
    layer, kept = tiny_pipe.unet.get_submodule(path), []
    x = inputs_of(layer)
    plain = layer(x)
    layer.register_forward_hook(lambda module, args, output: kept.append(output))
    gates = Gates()
    hook(tiny_pipe.unet, adapters_for(tiny_pipe, 1), UNET_PREFIX, gates)
    gates.value = torch.ones(ROWS, 1)
    with torch.no_grad():
        assert not torch.allclose(layer(x), plain, atol=1e-3)
    assert torch.equal(kept[0], plain)


def test_one_official_adapter_is_scaled_by_its_gate_squared(tiny_pipe: Any) -> None:
    path = next(iter(unet_layers(tiny_pipe.unet).values()))
    layer, gates = tiny_pipe.unet.get_submodule(path), Gates("official")
    x = inputs_of(layer)
    plain = layer(x)
    hook(tiny_pipe.unet, adapters_for(tiny_pipe, 1), UNET_PREFIX, gates)
    gates.value = torch.full((ROWS, 1), 0.3)
    official = layer(x) - plain
    gates.transport, gates.value = "paper", torch.full((ROWS, 1), 0.09)
    assert torch.allclose(official, layer(x) - plain, atol=1e-5)


def test_without_gates_or_after_removal_everything_is_exact(tiny_pipe: Any) -> None:
    ids = torch.arange(24).expand(2, -1)
    plain = tiny_pipe.text_encoder(ids)[0]
    gates = Gates()
    handles = hook(tiny_pipe.text_encoder, adapters_for(tiny_pipe, 2), TEXT_PREFIX, gates)
    assert torch.equal(tiny_pipe.text_encoder(ids)[0], plain)
    gates.value = torch.ones(2, 2)
    assert not torch.allclose(tiny_pipe.text_encoder(ids)[0], plain, atol=1e-3)
    for handle in handles:
        handle.remove()
    assert torch.equal(tiny_pipe.text_encoder(ids)[0], plain)


def test_zero_up_vectors_change_nothing(tiny_pipe: Any) -> None:
    ids = torch.arange(24).expand(2, -1)
    plain = tiny_pipe.text_encoder(ids)[0]
    (adapter,) = adapters_for(tiny_pipe, 1)
    zero = {key: torch.zeros_like(one) if key.endswith(UP) else one for key, one in adapter.tensors.items()}
    gates = Gates()
    gates.value = torch.ones(2, 1)
    hook(tiny_pipe.text_encoder, [replace(adapter, tensors=zero)], TEXT_PREFIX, gates)
    assert torch.allclose(tiny_pipe.text_encoder(ids)[0], plain, atol=1e-6)


def test_another_batch_is_refused(tiny_pipe: Any) -> None:
    gates = Gates()
    gates.value = torch.ones(3, 1)
    hook(tiny_pipe.text_encoder, adapters_for(tiny_pipe, 1), TEXT_PREFIX, gates)
    with pytest.raises(RuntimeError, match="expected 3 rows, as many as there are gates, found 2"):
        tiny_pipe.text_encoder(torch.arange(24).expand(2, -1))


def test_gradients_reach_gates_inputs_and_trained_vectors(tiny_pipe: Any) -> None:
    (adapter,) = adapters_for(tiny_pipe, 1)
    trained = {key: one.requires_grad_(key.endswith((UP, DOWN))) for key, one in adapter.tensors.items()}
    gates = Gates()
    gates.value = torch.ones(ROWS, 1, requires_grad=True)
    hook(tiny_pipe.unet, [replace(adapter, tensors=trained)], UNET_PREFIX, gates)
    stem, path = next(iter(unet_layers(tiny_pipe.unet).items()))
    layer: Any = tiny_pipe.unet.get_submodule(path)
    for _ in range(2):  # a second graph, nothing kept of the first
        x = inputs_of(layer).requires_grad_()
        wanted = [gates.value, x, trained[UNET_PREFIX + stem + UP], trained[UNET_PREFIX + stem + DOWN]]
        assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(layer(x).square().sum(), wanted))


def test_what_the_vectors_are_cast_to_follows_the_layer(tiny_pipe: Any) -> None:
    gates = Gates()
    gates.value = torch.ones(2, 1)
    hook(tiny_pipe.text_encoder, adapters_for(tiny_pipe, 1), TEXT_PREFIX, gates)
    ids = torch.arange(24).expand(2, -1)
    single = tiny_pipe.text_encoder(ids)[0]
    half = tiny_pipe.text_encoder.to(torch.bfloat16)(ids)[0]
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float().flatten(), single.flatten(), dim=0) > 0.99


def test_fused_weights_are_a_constant_gate(tiny_pipe: Any) -> None:
    adapters, gates = adapters_for(tiny_pipe, 2, rank=2, alpha=0.5), Gates()
    fused = fused_weights(tiny_pipe.text_encoder, adapters, TEXT_PREFIX, [0.25, 1.0])
    assert set(fused) == {f"{path}.weight" for path in text_layers(tiny_pipe.text_encoder).values()}
    ids = torch.arange(24).expand(2, -1)
    handles = hook(tiny_pipe.text_encoder, adapters, TEXT_PREFIX, gates)
    gates.value = torch.tensor([[0.25, 1.0]]).expand(2, -1)
    live = tiny_pipe.text_encoder(ids)[0]
    for handle in handles:
        handle.remove()
    tiny_pipe.text_encoder.load_state_dict({**tiny_pipe.text_encoder.state_dict(), **fused})
    assert torch.allclose(tiny_pipe.text_encoder(ids)[0], live, atol=1e-4)


def test_layers_inside_a_lora_are_found_by_their_own_names(tiny_pipe: Any) -> None:
    peft = pytest.importorskip("peft")
    plain = unet_layers(tiny_pipe.unet), text_layers(tiny_pipe.text_encoder)
    wrapped = peft.LoraConfig(r=2, target_modules=["to_k", "q_proj"])
    tiny_pipe.unet.add_adapter(wrapped)
    tiny_pipe.text_encoder.add_adapter(wrapped)
    found = unet_layers(tiny_pipe.unet), text_layers(tiny_pipe.text_encoder)
    for before, after in zip(plain, found, strict=True):
        assert before.keys() == after.keys()
        assert any(path.endswith(".base_layer") for path in after.values())


def broken(tensors: Mapping[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    stem = next(iter(tensors)).removesuffix(DOWN)
    ends = {"down": DOWN, "up": UP, "alpha": ALPHA}
    changed = {**tensors, **{stem + ends[end]: value for end, value in changes.items()}}
    return {key: value for key, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"up": None}, r"expected \.lora_up\.weight, found none"),
        ({"down": torch.zeros(3, 8, 1, 1)}, r"expected \(1, in\) and \(out, 1\)"),
        ({"down": torch.zeros(1, 8, 3, 3)}, "expected a convolution of 1 x 1"),
        ({"alpha": torch.tensor(2.0)}, r"expected alpha 1\.0, found 2\.0"),
        ({"alpha": torch.ones(2)}, "expected alpha"),
        ({"up": torch.full((8, 1, 1, 1), float("nan"))}, "expected finite values"),
    ],
)
def test_odd_tensors_are_named(tiny_pipe: Any, changes: dict[str, Tensor | None], words: str) -> None:
    tensors = adapter_tensors(tiny_pipe, 0)
    with pytest.raises(IntegrityError, match=words):
        Adapter(broken(tensors, **changes), ("a star",), 1, 1.0)


def test_what_is_no_adapter_is_refused(tiny_pipe: Any) -> None:
    tensors = adapter_tensors(tiny_pipe, 0)
    with pytest.raises(IntegrityError, match="found no tensors"):
        Adapter({}, ("a star",), 1, 1.0)
    with pytest.raises(IntegrityError, match="prompts: expected some"):
        Adapter(tensors, (), 1, 1.0)
    with pytest.raises(IntegrityError, match="rank: expected at least 1"):
        Adapter(tensors, ("a star",), 0, 1.0)
    with pytest.raises(IntegrityError, match=r"odd: expected no such tensor"):
        Adapter({**tensors, "odd": torch.zeros(1)}, ("a star",), 1, 1.0)


def test_adapters_of_another_base_are_refused(tiny_pipe: Any) -> None:
    other = {key.replace("down_blocks_1", "down_blocks_7"): one for key, one in adapter_tensors(tiny_pipe, 0).items()}
    with pytest.raises(ValueError, match="another base"):
        hook(tiny_pipe.unet, [Adapter(other, ("a star",), 1, 1.0)], UNET_PREFIX, Gates())
