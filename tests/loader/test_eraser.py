"""Erasers on pipelines: modules after the cross-attentions, by their equation, composed and taken off bit for bit."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from overlays import (
    drawn,
    eraser_tensors,
    generator,
    make_adapter,
    make_delta,
    make_eraser,
    make_projection,
    manifest_for,
)
from torch import Tensor

from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    Overlay,
    RobustEncoder,
    UnsavableError,
)
from robust_encoders.artifact.forms import parsed
from robust_encoders.cli.main import main
from robust_encoders.overlays.eraser import Eraser, applied, cross_attentions, hook, misfits, new_tensors

PROMPT = "a red circle on a white background"
PATHS = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2": 16,
    "mid_block.attentions.0.transformer_blocks.0.attn2": 16,
    "up_blocks.0.attentions.0.transformer_blocks.0.attn2": 16,
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2": 16,
}


def naive(o: Tensor, tensors: dict[str, Tensor], path: str) -> Tensor:
    """U GELU(D o + b_D) + b_U, one position after the other, with the error function written out."""
    down, b_down, up, b_up = (
        tensors[f"{path}.{name}"].double() for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    rows = []
    for row in o.double().reshape(-1, o.shape[-1]):
        inner = [float(down[r] @ row + b_down[r]) for r in range(len(down))]
        gelu = torch.tensor([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner], dtype=torch.float64)
        rows.append(up @ gelu + b_up)
    return torch.stack(rows).reshape(o.shape)


def outputs(unet: Any, run: Callable[[], object]) -> dict[str, Tensor]:
    """Return what each cross-attention gives to its block."""
    found: dict[str, Tensor] = {}
    handles = [
        unet.get_submodule(path).register_forward_hook(lambda m, a, o, path=path: found.__setitem__(path, o.clone()))
        for path in PATHS
    ]
    run()
    for handle in handles:
        handle.remove()
    return found


def call(unet: Any) -> Tensor:
    x, c = torch.randn(2, 4, 8, 8, generator=generator(5)), torch.randn(2, 24, 16, generator=generator(6))
    dtype = next(unet.parameters()).dtype
    found: Tensor = unet(x.to(dtype), 500, encoder_hidden_states=c.to(dtype)).sample
    return found


@torch.no_grad()
def test_its_equation(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet
    first, second = eraser_tensors(tiny_pipe), eraser_tensors(tiny_pipe, 1, rank=3)
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"  # the first one, whose input is the same
    o = outputs(unet, lambda: call(unet))[path]
    with applied(unet, [Eraser(first)]):
        found = outputs(unet, lambda: call(unet))[path]
    assert torch.allclose(found.double(), o + naive(o, first, path), atol=1e-4)
    with applied(unet, [Eraser(first), Eraser(second)]):  # both read the same o
        found = outputs(unet, lambda: call(unet))[path]
    assert torch.allclose(found.double(), o + naive(o, first, path) + naive(o, second, path), atol=1e-4)
    with applied(unet, [Eraser(first)], scale=0.5):
        found = outputs(unet, lambda: call(unet))[path]
    assert torch.allclose(found.double(), o + 0.5 * naive(o, first, path), atol=1e-4)
    with applied(unet, [Eraser(first)], scale=0.0):
        assert torch.equal(outputs(unet, lambda: call(unet))[path], o)
    assert not any(module._forward_hooks for module in unet.modules())


def test_its_places_are_the_cross_attentions(tiny_pipe: Any) -> None:
    assert cross_attentions(tiny_pipe.unet) == PATHS
    eraser = Eraser(eraser_tensors(tiny_pipe, rank=3))
    assert (eraser.paths, eraser.widths, eraser.rank) == (tuple(sorted(PATHS)), PATHS, 3)
    assert misfits(tiny_pipe.unet, eraser) == []


def test_an_untrained_one_changes_nothing(tiny_pipe: Any) -> None:
    tensors = new_tensors(tiny_pipe.unet, 4, generator=generator(0))
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        name: tuple(value.shape) for name, value in eraser_tensors(tiny_pipe).items()
    }
    assert Eraser(new_tensors(tiny_pipe.unet, 4, generator=generator(0))).rank == 4
    before = call(tiny_pipe.unet)
    with applied(tiny_pipe.unet, [Eraser(tensors)]):
        assert torch.equal(call(tiny_pipe.unet), before)


def test_training_reaches_the_parameters_at_every_step(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet.requires_grad_(False)
    parameters = {name: torch.nn.Parameter(v) for name, v in new_tensors(unet, 4, generator=generator(0)).items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
    seen: dict[str, Tensor] = {}
    losses = []
    with applied(unet, [Eraser(parameters)], observe=seen.__setitem__):
        for _ in range(3):
            optimizer.zero_grad()
            loss = call(unet).square().mean() + 0.1 * sum(o.square().mean() for o in seen.values())
            torch.autograd.backward(loss)
            assert all(value.grad is not None for name, value in parameters.items() if ".up." in name)
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3
    assert {path: tuple(o.shape) for path, o in seen.items()} == dict.fromkeys(PATHS, (2, 16, 16))
    with torch.no_grad(), applied(unet, [Eraser(parameters)]):
        first = call(unet)
        for value in parameters.values():
            value.add_(0.5)
        assert not torch.equal(call(unet), first)  # nothing of a Parameter is cached


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_follows_the_unet_and_autocast(tiny_pipe: Any, dtype: torch.dtype) -> None:
    parameters = {name: torch.nn.Parameter(value) for name, value in eraser_tensors(tiny_pipe).items()}
    half = copy.deepcopy(tiny_pipe.unet).to(dtype)
    seen: dict[str, Tensor] = {}
    with applied(half, [Eraser(parameters)], observe=seen.__setitem__):
        torch.autograd.backward(call(half).float().sum())
    assert {o.dtype for o in seen.values()} == {dtype}
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in parameters.values())
    with applied(tiny_pipe.unet, [Eraser(parameters)]), torch.autocast("cpu", torch.bfloat16):
        torch.autograd.backward(call(tiny_pipe.unet).float().sum())
    with applied(tiny_pipe.unet, [Eraser(eraser_tensors(tiny_pipe))], observe=seen.__setitem__), torch.inference_mode():
        expected = call(tiny_pipe.unet)
        assert torch.equal(call(tiny_pipe.unet), expected)


def test_cached_tensors_serve_later_calls_with_gradients(tiny_pipe: Any) -> None:
    """A first call in inference mode must not leave inference tensors behind."""
    unet = copy.deepcopy(tiny_pipe.unet).to(torch.bfloat16)
    with applied(unet, [Eraser(eraser_tensors(tiny_pipe)), Eraser(eraser_tensors(tiny_pipe, 1))]):
        with torch.inference_mode():
            call(unet)
        torch.autograd.backward(call(unet).float().sum())


def test_a_unet_without_the_place_is_refused(tiny_pipe: Any) -> None:
    tensors = {name.replace("mid_block", "last_block"): value for name, value in eraser_tensors(tiny_pipe).items()}
    with pytest.raises(ValueError, match=r"1 problem\(s\): no cross-attention last_block"):
        hook(tiny_pipe.unet, [Eraser(tensors)])
    assert not any(module._forward_hooks for module in tiny_pipe.unet.modules())


def test_it_changes_pictures_and_comes_off_without_a_trace(tiny_pipe: Any) -> None:
    parts = (tiny_pipe.text_encoder, tiny_pipe.unet)
    before, by_hand = drawn(tiny_pipe, PROMPT), copy.deepcopy(tiny_pipe)
    overlay = make_eraser(tiny_pipe)
    hook(by_hand.unet, [Eraser(overlay.tensors)])
    overlay.attach(tiny_pipe)
    found = drawn(tiny_pipe, PROMPT)
    assert not torch.equal(found, before)
    assert torch.equal(found, drawn(by_hand, PROMPT))
    assert tiny_pipe.text_encoder is parts[0]
    assert RobustEncoder.status(tiny_pipe).overlays == (overlay.label,)
    overlay.detach(tiny_pipe)
    assert (tiny_pipe.text_encoder, tiny_pipe.unet) == parts
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parts[1].modules())


def test_a_pipeline_that_shares_the_unet_stays_as_it_was(tiny_pipe: Any) -> None:
    sibling = type(tiny_pipe)(**tiny_pipe.components, requires_safety_checker=False)
    before = drawn(sibling, PROMPT)
    make_eraser(tiny_pipe).attach(tiny_pipe)
    assert torch.equal(drawn(sibling, PROMPT), before)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_any_order_of_attaching_gives_the_same(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, order: tuple[int, ...]
) -> None:
    plain = drawn(tiny_pipe, PROMPT)
    made = [make_eraser(tiny_pipe), make_eraser(tiny_pipe, "a star", seed=1, rank=2), make_adapter(tiny_pipe)]
    made.append(make_projection(tiny_pipe))
    pictures = []
    for turn in (range(4), order):
        for i in turn:
            made[i].attach(tiny_pipe)
        pictures.append(drawn(tiny_pipe, PROMPT))
        for i in turn:
            made[i].detach(tiny_pipe)
        assert torch.equal(drawn(tiny_pipe, PROMPT), plain)
    assert torch.equal(*pictures)
    made[0].attach(tiny_pipe)
    alone = drawn(tiny_pipe, PROMPT)
    with tiny_encoder.attached(tiny_pipe):
        assert not torch.equal(drawn(tiny_pipe, PROMPT), alone)
    assert torch.equal(drawn(tiny_pipe, PROMPT), alone)


def test_two_together_differ_from_each_alone(tiny_pipe: Any) -> None:
    one, two = make_eraser(tiny_pipe), make_eraser(tiny_pipe, "a star", seed=1)
    pictures = []
    for chosen in ([one], [two], [one, two]):
        for overlay in chosen:
            overlay.attach(tiny_pipe)
        pictures.append(drawn(tiny_pipe, PROMPT))
        for overlay in chosen:
            overlay.detach(tiny_pipe)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(pictures, 2))


def test_adapters_inside_the_attention_apply_before_it(tiny_pipe: Any) -> None:
    """A fused adapter is the live one at gate 1; the eraser reads the same o of both."""
    adapter, eraser = make_adapter(tiny_pipe, PROMPT), make_eraser(tiny_pipe)
    eraser.attach(tiny_pipe)
    live = drawn(adapter.attach(tiny_pipe, transport="paper"), PROMPT, guidance_scale=1.0)
    with pytest.warns(CompatibilityWarning, match="loses"):
        adapter.fuse(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, PROMPT, guidance_scale=1.0), live, atol=1e-4)


def test_it_has_no_strength_and_cannot_be_fused(tiny_pipe: Any) -> None:
    overlay = make_eraser(tiny_pipe)
    with pytest.raises(ManifestError, match="which can be scaled, found form 'eraser'"):
        overlay.attach(tiny_pipe, scale=0.5)
    overlay.attach(tiny_pipe)
    with pytest.raises(ManifestError, match="detach the overlay to switch it off"):
        overlay.set_scale(tiny_pipe, 0.5)
    before = drawn(tiny_pipe, PROMPT)
    with pytest.raises(ManifestError, match=r"cannot be written into linear weights; detach it before"):
        overlay.fuse(tiny_pipe)
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)


def test_a_pipeline_with_one_is_not_saved_without_it(tiny_pipe: Any, tmp_path: Path) -> None:
    overlay = make_eraser(tiny_pipe)
    make_delta(tiny_pipe).attach(tiny_pipe)
    overlay.attach(tiny_pipe)
    with pytest.raises(UnsavableError, match=r"detach it first.*if it is no eraser"):
        tiny_pipe.save_pretrained(tmp_path / "no")
    overlay.detach(tiny_pipe)
    tiny_pipe.save_pretrained(tmp_path / "yes")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pipelines_are_cast_while_it_is_on(tiny_pipe: Any, dtype: torch.dtype) -> None:
    overlay = make_eraser(tiny_pipe)
    overlay.attach(tiny_pipe)
    expected = drawn(tiny_pipe, PROMPT)
    tiny_pipe.unet.to(dtype)
    tiny_pipe.text_encoder.to(dtype)
    tiny_pipe.vae.to(dtype)
    assert torch.isfinite(drawn(tiny_pipe, PROMPT)).all()
    tiny_pipe.to(torch.float32)
    assert drawn(tiny_pipe, PROMPT).shape == expected.shape
    overlay.detach(tiny_pipe)
    assert tiny_pipe.unet.dtype == torch.float32


def test_model_offload_and_from_pipe(make_pipe: Callable[..., Any]) -> None:
    plain = make_pipe()
    overlay = make_eraser(plain)
    expected = drawn(overlay.attach(plain), PROMPT)
    sibling = type(plain).from_pipe(plain, requires_safety_checker=False)
    sibling.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(sibling, PROMPT), expected)
    pipe = make_pipe()
    original = pipe.unet
    pipe.enable_model_cpu_offload(device="cpu")
    overlay.attach(pipe)
    assert torch.equal(drawn(pipe, PROMPT), expected)
    overlay.detach(pipe)
    assert pipe.unet is original


def test_a_copy_of_the_pipeline_has_it(tiny_pipe: Any) -> None:
    overlay = make_eraser(tiny_pipe)
    expected = drawn(overlay.attach(tiny_pipe), PROMPT)
    copied = copy.deepcopy(tiny_pipe)
    overlay.detach(tiny_pipe)
    assert torch.equal(drawn(copied, PROMPT), expected)


def test_it_attaches_behind_a_robust_encoder_and_not_to_another_base(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_pipe: Callable[..., Any]
) -> None:
    overlay = make_eraser(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    assert overlay.check(tiny_pipe).ok
    assert {check.name for check in overlay.check(make_pipe(seed=3)).errors} == {"text encoder"}
    wrong = {name: value for name, value in eraser_tensors(tiny_pipe).items() if "mid_block" in name}
    wrong = {name.replace("attentions.0", "attentions.7"): value for name, value in wrong.items()}
    other = Overlay(overlay.manifest, wrong, {})
    assert [check.name for check in other.check(tiny_pipe).errors] == ["cross-attentions of the unet"]
    with pytest.raises(IncompatibleError, match=r"no cross-attention mid_block.attentions.7"):
        other.attach(tiny_pipe)
    narrow = {k: v[..., :8] if k.endswith("down.weight") else v for k, v in eraser_tensors(tiny_pipe).items()}
    narrow = {k: v[:8] if ".up." in k else v for k, v in narrow.items()}
    found = Overlay(overlay.manifest, narrow, {}).check(tiny_pipe)["cross-attentions of the unet"].found
    assert found.startswith("4 problem(s): down_blocks.1.attentions.0.transformer_blocks.0.attn2 of width 16 for 8")
    assert found.endswith("; and 1 more")


PATH = "mid_block.attentions.0.transformer_blocks.0.attn2"


def module(rank: int = 2, changed: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    width = 16
    tensors = {
        "down.weight": torch.ones(rank, width), "down.bias": torch.ones(rank), "up.weight": torch.ones(width, rank),
        "up.bias": torch.ones(width),
    }  # fmt: skip
    return {f"{PATH}.{name}": value for name, value in {**tensors, **(changed or {})}.items()}


BAD: dict[str, tuple[dict[str, Tensor], str]] = {
    "none": ({}, "no modules"),
    "missing": ({k: v for k, v in module().items() if "up.bias" not in k}, r"attn2 without \.up\.bias"),
    "shape": (module(changed={"up.weight": torch.ones(2, 16)}), r"with shapes \(2, 16\)"),
    "no rank": (module(rank=0), "with shapes"),
    "other": ({**module(), "alpha": torch.ones(1)}, "alpha, which names no part"),
    "whole numbers": (module(changed={"up.bias": torch.ones(16, dtype=torch.int32)}), r"up.bias of torch.int32"),
    "infinite": (module(changed={"down.bias": torch.full((2,), float("inf"))}), "down.bias with NaN or infinity"),
    "ranks": ({**module(), **{k.replace("mid", "top"): v for k, v in module(3).items()}}, r"ranks \[2, 3\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_tensors_are_refused_in_memory_and_in_a_file(tiny_pipe: Any, name: str) -> None:
    tensors, text = BAD[name]
    with pytest.raises(IntegrityError, match=text):
        Overlay(manifest_for(tiny_pipe, "red circle", "eraser", "unet", "receler"), tensors, {})
    with pytest.raises(IntegrityError, match=text):
        parsed("eraser", safetensors.torch.save(tensors))


def test_its_rank_is_that_of_its_tensors(tiny_pipe: Any) -> None:
    overlay = make_eraser(tiny_pipe, rank=3)
    assert overlay.config == {"rank": 3}
    again = Overlay(overlay.manifest, overlay.tensors, {"rank": 3})
    assert again.identity == overlay.identity
    with pytest.raises(IntegrityError, match="expected the rank of the tensors, 3"):
        Overlay(overlay.manifest, overlay.tensors, {"rank": 4})
    manifest = manifest_for(tiny_pipe, "red circle", "eraser", "text_encoder", "receler")
    with pytest.raises(ManifestError, match="found form 'eraser' of 'text_encoder'"):
        Overlay(manifest, overlay.tensors, {})


def test_it_is_attached_once(tiny_pipe: Any) -> None:
    overlay = make_eraser(tiny_pipe)
    unet = overlay.attach(tiny_pipe).unet
    assert make_eraser(tiny_pipe).attach(tiny_pipe).unet is unet
    with pytest.raises(AlreadyAttachedError, match="transport"):
        make_eraser(tiny_pipe).attach(tiny_pipe, transport="paper")
    other = make_eraser(tiny_pipe, "a star", seed=2)
    other.attach(tiny_pipe, replace=True)
    assert RobustEncoder.status(tiny_pipe).overlays == (other.label,)


def test_it_survives_its_folder(tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay, folder = make_eraser(tiny_pipe), tmp_path / "one"
    make_delta(tiny_pipe).save_pretrained(folder)
    manifest = overlay.save_pretrained(folder)  # nothing of the first form stays
    assert {path.name for path in folder.iterdir()} == {"robust_encoder.json", "README.md", "eraser.safetensors"}
    with safetensors.safe_open(folder / "eraser.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert "cannot be fused" in (folder / "README.md").read_text()
    read = RobustEncoder.from_pretrained(folder)
    assert isinstance(read, Overlay)
    assert (read.identity, read.config, read.manifest) == (overlay.identity, {"rank": 4}, manifest)
    with overlay.attached(tiny_pipe):
        expected = drawn(tiny_pipe, PROMPT)
    with read.attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), expected)
    with RobustEncoder.from_pretrained(folder, dtype=torch.float16).attached(tiny_pipe):
        assert torch.allclose(drawn(tiny_pipe, PROMPT), expected, atol=0.05)
    assert main(["verify", str(folder)]) == 0
    assert main(["info", str(folder)]) == 0
    assert "eraser of unet" in capsys.readouterr().out
    data = bytearray((folder / "eraser.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "eraser.safetensors").write_bytes(bytes(data))
    assert main(["verify", str(folder)]) == 1
