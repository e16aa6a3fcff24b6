from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from rounding import assert_same_but_for_rounding
from tiny_training import OPTIONS, TINY, erase
from torch import Tensor, nn

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.memory import activation_checkpointing, in_pieces
from robust_encoders.training.losses import squared_error
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

EXACT = replace(OPTIONS, train=replace(OPTIONS.train, precision="fp32"))


def flags(pipe: Any) -> list[tuple[Any, ...]]:
    parts = (pipe.unet, pipe.text_encoder)
    names = ("gradient_checkpointing", "training", "_gradient_checkpointing_func")
    return [tuple(getattr(m, name, None) for name in names) for part in parts for m in part.modules()]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(pipe: Any, counted: list[int]) -> Tensor:
    """Return the gradient to token embeddings of a loss behind UNet and text encoder; note every call of a block."""
    backbone = Backbone.from_pipeline(pipe)
    ids = backbone.tokenize(["a red circle", "a square"])
    embeds = backbone.embed(ids).detach().requires_grad_()
    layers = pipe.text_encoder.encoder.layers if hasattr(pipe.text_encoder, "encoder") else None
    blocks = [m for m in pipe.unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    blocks += list(layers if layers is not None else pipe.text_encoder.text_model.encoder.layers)
    inner = [next(m for m in block.modules() if isinstance(m, nn.LayerNorm)) for block in blocks]
    hooks = [m.register_forward_hook(lambda *_: counted.append(1)) for m in inner]
    predicted = backbone.predict(random(2, 4, 8, 8), torch.tensor([10, 500]), backbone.encode(embeds, ids))
    found: tuple[Tensor, ...] = torch.autograd.grad(predicted.square().sum(), embeds)
    for hook in hooks:
        hook.remove()
    return found[0]


def test_computing_activations_twice_gives_the_same_bits(tiny_pipe: Any) -> None:
    once: list[int] = []
    twice: list[int] = []
    expected = gradient(tiny_pipe, once)
    before = flags(tiny_pipe)
    with activation_checkpointing(tiny_pipe.unet, tiny_pipe.text_encoder):
        found = gradient(tiny_pipe, twice)
        assert not any(m.training for m in tiny_pipe.text_encoder.modules() if isinstance(m, nn.Linear))
    assert torch.equal(found, expected)
    assert len(twice) == 2 * len(once)
    assert flags(tiny_pipe) == before


def test_dropout_stays_off_where_activations_are_computed_twice(make_pipe: Any) -> None:
    pipe = make_pipe(attention_dropout=0.5)
    expected = gradient(pipe, [])
    with activation_checkpointing(pipe.unet, pipe.text_encoder):
        assert torch.equal(gradient(pipe, []), expected)


def test_switches_are_put_back_after_an_error(tiny_pipe: Any) -> None:
    tiny_pipe.unet.enable_gradient_checkpointing()
    before = flags(tiny_pipe)
    with pytest.raises(KeyboardInterrupt), activation_checkpointing(tiny_pipe.unet, tiny_pipe.text_encoder):
        raise KeyboardInterrupt
    assert flags(tiny_pipe) == before


def test_models_that_cannot_compute_twice_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"found none in Linear: train without gradient checkpointing"),
        activation_checkpointing(nn.Linear(2, 2)),
    ):
        pass


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_pieces_have_the_values_and_gradients_of_the_whole(tiny_pipe: Any, size: int) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    backbone.unet.requires_grad_(False)
    latents, target = random(5, 4, 8, 8), random(5, 4, 8, 8, seed=1)
    t, weights = torch.arange(5) * 100, torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0])
    seen: list[int] = []

    def error(rows: slice, cond: Tensor) -> Tensor:
        seen.append(len(cond))
        found: Tensor = squared_error(backbone.predict(latents[rows], t[rows], cond), target[rows])
        return found

    whole, cond = (random(5, 24, 16, seed=2).requires_grad_() for _ in range(2))
    expected = error(slice(None), whole)
    torch.autograd.backward((weights * expected).sum())
    seen.clear()
    found = in_pieces(error, cond, size)
    torch.autograd.backward((weights * found).sum())
    assert sum(seen) == 5
    assert max(seen) == min(size, 5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cond.grad, whole.grad)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(error, cond.detach(), size), expected)


@pytest.mark.parametrize("method", [EXACT, replace(TINY, bank=BankConfig(mode="fresh", steps=2))])
def test_saving_memory_changes_rounding_alone(tiny_pipe: Any, method: Any) -> None:
    whole = erase(method, tiny_pipe)
    before = flags(tiny_pipe)
    recomputing = erase(method, tiny_pipe, Workspace(progress=False, gradient_checkpointing=True))
    assert content_sha256(recomputing.tensors) == content_sha256(whole.tensors)
    assert flags(tiny_pipe) == before
    pieces = erase(method, tiny_pipe, Workspace(progress=False, micro_batch=2, gradient_checkpointing=True))
    assert pieces.log["unet_calls"] == whole.log["unet_calls"]
    assert_same_but_for_rounding(pieces.tensors, whole.tensors)


def test_the_unet_never_sees_more_latents_than_a_micro_batch(tiny_pipe: Any) -> None:
    rows: list[int] = []
    hook = tiny_pipe.unet.register_forward_hook(
        lambda module, given, out: rows.append(len(out.sample)) if torch.is_grad_enabled() else None
    )
    erase(TINY, tiny_pipe, Workspace(progress=False, micro_batch=1))
    hook.remove()
    assert set(rows) == {1}


def test_attention_is_torchs_own(tiny_pipe: Any) -> None:
    layers = [m for m in tiny_pipe.unet.modules() if isinstance(m, Attention)]
    assert {type(layer.processor) for layer in layers} == {AttnProcessor2_0}
    assert tiny_pipe.text_encoder.config._attn_implementation == "sdpa"
