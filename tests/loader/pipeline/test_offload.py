"""Attaching to pipelines that are moved around while they run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, CpuOffload, ModelHook, add_hook_to_module
from diffusers.hooks import HookRegistry
from diffusers.hooks import ModelHook as DiffusersHook

from robust_encoders import IncompatibleError, RobustEncoder, StaleAttachmentError

CPU = torch.device("cpu")
# Older versions of diffusers ask for the accelerator itself, whatever the devices are.
NEEDS_ACCELERATOR = tuple(int(part) for part in version("diffusers").split(".")[:2]) < (0, 38)


def draw(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = pipe("a red circle", num_inference_steps=2, output_type="pt", generator=generator).images
    assert isinstance(images, torch.Tensor)
    return images


def offload_sequentially(pipe: Any) -> None:
    """What ``enable_sequential_cpu_offload`` does on an accelerator."""
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload(part, CPU)


def hook_of(module: Any) -> Any:
    return getattr(module, "_hf_hook", None)


def test_model_offload_is_carried_over_and_given_back(make_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    plain = make_pipe()
    before = draw(plain)
    robust = draw(tiny_encoder.attach(plain))
    pipe = make_pipe()
    original = pipe.text_encoder
    pipe.enable_model_cpu_offload(device="cpu")
    tiny_encoder.attach(pipe)
    assert isinstance(hook_of(pipe.text_encoder), CpuOffload)
    assert [hook.model for hook in pipe._all_hooks] == [pipe.text_encoder, pipe.unet, pipe.vae]
    assert torch.equal(draw(pipe), robust)
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is original
    assert isinstance(hook_of(original), CpuOffload)
    assert [hook.model for hook in pipe._all_hooks] == [original, pipe.unet, pipe.vae]
    assert torch.equal(draw(pipe), before)


def test_a_failure_under_model_offload_restores_the_chain(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.enable_model_cpu_offload(device="cpu")
    before, original, calls = draw(tiny_pipe), tiny_pipe.text_encoder, []
    real = type(tiny_pipe).enable_model_cpu_offload

    def fail_second(pipe: Any, **options: Any) -> None:
        calls.append(options)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        real(pipe, **options)

    monkeypatch.setattr(type(tiny_pipe), "enable_model_cpu_offload", fail_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert [hook.model for hook in tiny_pipe._all_hooks] == [original, tiny_pipe.unet, tiny_pipe.vae]
    assert torch.equal(draw(tiny_pipe), before)


def test_sequential_offload_is_carried_over_and_given_back(make_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    plain = make_pipe()
    before = draw(plain)
    robust = draw(tiny_encoder.attach(plain))
    pipe = make_pipe()
    offload_sequentially(pipe)
    original, hooks = pipe.text_encoder, {name: hook_of(m) for name, m in pipe.text_encoder.named_modules()}
    tiny_encoder.attach(pipe)
    assert {parameter.device.type for parameter in pipe.text_encoder.parameters()} == {"meta"}
    assert RobustEncoder.status(pipe).intact
    assert torch.equal(draw(pipe), robust)
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is original
    assert {name: hook_of(module) for name, module in original.named_modules()} == hooks
    assert torch.equal(draw(pipe), before)


def test_offloading_that_came_after_attaching_reaches_the_original(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, original = draw(tiny_pipe), tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    offload_sequentially(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert {parameter.device.type for parameter in original.parameters()} == {"meta"}
    assert torch.equal(draw(tiny_pipe), before)


def test_offloading_that_ended_after_attaching_leaves_the_original(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, original = draw(tiny_pipe), tiny_pipe.text_encoder
    offload_sequentially(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.remove_all_hooks()
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert [hook_of(module) for module in original.modules() if hook_of(module)] == []
    assert torch.equal(draw(tiny_pipe), before)


def group_offload(pipe: Any) -> None:
    from diffusers.hooks import apply_group_offloading

    if torch.accelerator.is_available() or not NEEDS_ACCELERATOR:
        apply_group_offloading(pipe.text_encoder, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
        return
    registry: Any = HookRegistry
    hook: Any = DiffusersHook
    registry.check_if_exists_or_initialize(pipe.text_encoder).register_hook(hook(), "group_offloading")


def cast_by_layers(pipe: Any) -> None:
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(pipe.text_encoder, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=("embeddings",))


def map_devices(pipe: Any) -> None:
    pipe.hf_device_map = {"text_encoder": "cpu", "unet": "cpu", "vae": "cpu"}


def hook_strangely(pipe: Any) -> None:
    add_hook_to_module(pipe.text_encoder, ModelHook())


@pytest.mark.parametrize(
    ("enable", "found"),
    [
        (group_offload, "group offload"),
        (cast_by_layers, "layerwise casting"),
        (map_devices, "device map"),
        (hook_strangely, "unknown hook"),
    ],
)
def test_other_offloading_is_refused(
    tiny_pipe: Any, make_pipe: Any, tiny_encoder: RobustEncoder, enable: Callable[[Any], None], found: str
) -> None:
    enable(tiny_pipe)
    original = tiny_pipe.text_encoder
    with pytest.raises(IncompatibleError, match=f"offloading: .* found {found}; attach before enabling it"):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    later = tiny_encoder.attach(make_pipe())
    installed = later.text_encoder
    enable(later)
    with pytest.raises(StaleAttachmentError, match=f"without {found}"):
        tiny_encoder.detach(later)
    assert later.text_encoder is installed


def test_casting_by_layers_is_seen_under_model_offload(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    from diffusers.hooks import apply_layerwise_casting

    skipped = ("norm", "embed")
    apply_layerwise_casting(tiny_pipe.text_encoder, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=skipped)
    tiny_pipe.enable_model_cpu_offload(device="cpu")
    report = tiny_encoder.check(tiny_pipe)
    assert report["offloading"].found == "layerwise casting"
    assert "float8_e4m3fn" in report["precision"].found
    with pytest.raises(IncompatibleError, match="found layerwise casting"):
        tiny_encoder.attach(tiny_pipe)


def test_a_precision_that_only_stores_weights_does_not_reach_the_original(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    original = tiny_pipe.text_encoder
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    tiny_encoder.attach(tiny_pipe)
    for part in tiny_pipe.text_encoder.modules():
        if isinstance(part, torch.nn.Linear):
            part.to(torch.float8_e4m3fn)
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())


def test_an_empty_slot_is_filled_where_the_unet_is(make_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    robust = draw(tiny_encoder.attach(make_pipe()))
    pipe = make_pipe()
    pipe.register_modules(text_encoder=None)
    cpu_offload(pipe.unet, CPU)
    cpu_offload(pipe.vae, CPU)
    tiny_encoder.attach(pipe)
    assert torch.equal(draw(pipe), robust)
    assert RobustEncoder.status(pipe).intact


def test_an_empty_slot_takes_the_precision_of_the_unet(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.register_modules(text_encoder=None)
    tiny_pipe.unet.to(torch.bfloat16)
    tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder.dtype == torch.bfloat16


def test_an_empty_slot_beside_a_unet_with_group_offloading_is_refused(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    tiny_pipe.register_modules(text_encoder=None)
    registry: Any = HookRegistry
    hook: Any = DiffusersHook
    registry.check_if_exists_or_initialize(tiny_pipe.unet).register_hook(hook(), "group_offloading")
    with pytest.raises(IncompatibleError, match="found group offload"):
        tiny_encoder.attach(tiny_pipe)


def test_a_registry_without_hooks_is_no_offloading(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    registry: Any = HookRegistry
    hook: Any = DiffusersHook
    kept = registry.check_if_exists_or_initialize(tiny_pipe.text_encoder)
    kept.register_hook(hook(), "group_offloading")
    assert tiny_encoder.check(tiny_pipe)["offloading"].found == "group offload"
    kept.remove_hook("group_offloading")
    assert tiny_encoder.check(tiny_pipe)["offloading"].ok


def test_group_offloading_of_other_parts_is_left_to_them(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    registry: Any = HookRegistry
    hook: Any = DiffusersHook
    registry.check_if_exists_or_initialize(tiny_pipe.unet).register_hook(hook(), "group_offloading")
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).intact
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original


def test_a_device_map_of_one_device_is_no_offloading(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.hf_device_map = "cpu"
    assert tiny_encoder.check(tiny_pipe)["offloading"].ok


def test_hooks_in_a_chain_are_understood(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    add_hook_to_module(tiny_pipe.text_encoder, ModelHook())
    add_hook_to_module(tiny_pipe.text_encoder, AlignDevicesHook(execution_device=CPU), append=True)
    assert tiny_encoder.check(tiny_pipe)["offloading"].found == "sequential offload"
