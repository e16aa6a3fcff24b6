"""What a pipeline's own methods, and those of its components, change on it; each with the call that undoes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import diffusers
import peft
import torch
from accelerate import cpu_offload
from diffusers import AutoPipelineForImage2Image
from diffusers.models.attention_processor import AttnProcessor
from overlays import generator
from peft.utils import get_peft_model_state_dict

CPU = torch.device("cpu")
DIFFUSERS = tuple(int(part) for part in version("diffusers").split(".")[:2])
# Called through Any: the libraries' own types are not followed.
LIBRARY: Any = diffusers


@dataclass(frozen=True)
class Change:
    """A change of a pipeline.

    Args:
        do: Function that makes it.
        undo: Function that undoes it; None for a change that leaves nothing to undo, or that diffusers cannot undo.
        pickled: True if diffusers itself can pickle a pipeline with it.
    """

    do: Callable[[Any], Any]
    undo: Callable[[Any], Any] | None = None
    pickled: bool = True


def lora(pipe: Any, *parts: str) -> None:
    """Load a LoRA of some components from a state dict, as from a file."""
    targets = {"unet": ["to_q", "to_k"], "text_encoder": ["q_proj", "k_proj"]}
    state = {}
    for part in parts:
        module = getattr(pipe, part)
        donor = type(module)(module.config) if part == "text_encoder" else type(module).from_config(module.config)
        donor.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=targets[part]))
        g = generator(5)
        for name, tensor in sorted(get_peft_model_state_dict(donor).items()):
            state[f"{part}.{name}"] = 0.5 * torch.randn(tensor.shape, generator=g)
    pipe.load_lora_weights(state, adapter_name="mine")
    pipe.set_adapters(["mine"], [0.5])


def fuse_lora(pipe: Any) -> None:
    lora(pipe, "unet")
    pipe.fuse_lora(components=["unet"])


def unfuse_lora(pipe: Any) -> None:
    pipe.unfuse_lora(components=["unet"])
    pipe.unload_lora_weights()


def switch_lora_off(pipe: Any) -> None:
    lora(pipe, "unet")
    pipe.disable_lora()


def ip_adapter(pipe: Any) -> None:
    """Load an IP-Adapter of random weights, without its image encoder."""
    g, attentions = generator(3), {}
    names = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    for place, name in enumerate(names):
        width = pipe.unet.get_submodule(name.rpartition(".")[0]).to_q.weight.shape[0]
        for part in ("to_k_ip", "to_v_ip"):
            attentions[f"{2 * place + 1}.{part}.weight"] = 0.3 * torch.randn(width, 16, generator=g)
    image = {"proj.weight": torch.randn(64, 8, generator=g), "proj.bias": torch.zeros(64)}
    image |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    state = {"image_proj": image, "ip_adapter": attentions}
    pipe.load_ip_adapter(state, subfolder=None, weight_name=None, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.5)


def both(call: Callable[[Any], Any]) -> Callable[[Any], None]:
    def do(pipe: Any) -> None:
        for part in (pipe.unet, pipe.text_encoder):
            call(part)

    return do


def set_hidden(value: bool) -> Callable[[Any], None]:
    return lambda pipe: setattr(pipe.text_encoder.config, "output_hidden_states", value)


def offload_sequentially(pipe: Any) -> None:
    """What ``enable_sequential_cpu_offload`` does on an accelerator."""
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload(part, CPU)


def compile_unet(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def tile(pipe: Any) -> None:
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()


def untile(pipe: Any) -> None:
    pipe.vae.disable_slicing()
    pipe.vae.disable_tiling()


def free(pipe: Any) -> None:
    """Call what concerns only pipelines that are offloaded."""
    pipe.to("cpu")
    pipe.maybe_free_model_hooks()
    pipe.remove_all_hooks()
    pipe.reset_device_map()


def use_again(pipe: Any) -> None:
    AutoPipelineForImage2Image.from_pipe(pipe)
    LIBRARY.StableDiffusionInpaintPipeline(**pipe.components)


CHANGES: dict[str, Change] = {
    "to dtype": Change(lambda pipe: pipe.to(torch.bfloat16)),
    "attention slicing": Change(lambda p: p.enable_attention_slicing(1), lambda p: p.disable_attention_slicing()),
    "vae slicing and tiling": Change(tile, untile),
    "nothing to free": Change(free),
    "freeu": Change(lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.5, 1.6), lambda pipe: pipe.disable_freeu()),
    "without xformers": Change(
        lambda pipe: pipe.disable_xformers_memory_efficient_attention(),
        lambda pipe: pipe.unet.set_default_attn_processor(),
    ),
    "attention processor": Change(
        lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()), lambda pipe: pipe.unet.set_default_attn_processor()
    ),
    "fused projections": Change(lambda p: p.fuse_qkv_projections(), lambda p: p.unfuse_qkv_projections()),
    "lora": Change(lambda pipe: lora(pipe, "unet"), lambda pipe: pipe.unload_lora_weights()),
    "lora with text": Change(lambda p: lora(p, "unet", "text_encoder"), lambda p: p.unload_lora_weights()),
    "lora off": Change(switch_lora_off, lambda pipe: pipe.unload_lora_weights()),
    "lora fused": Change(fuse_lora, unfuse_lora),
    "textual inversion": Change(
        lambda pipe: pipe.load_textual_inversion({"<a>": 0.01 * torch.ones(16)}),
        lambda pipe: pipe.unload_textual_inversion(),
    ),
    "ip-adapter": Change(ip_adapter, lambda pipe: pipe.unload_ip_adapter()),
    "layerwise casting": Change(
        lambda pipe: pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32),
        pickled=False,
    ),
    "compiled unet": Change(compile_unet, lambda pipe: setattr(pipe, "unet", pipe.unet._orig_mod)),
    "unet compiled in place": Change(
        lambda pipe: pipe.unet.compile(backend="eager"), lambda pipe: setattr(pipe.unet, "_compiled_call_impl", None)
    ),
    "model offload": Change(
        lambda pipe: pipe.enable_model_cpu_offload(device="cpu"), lambda p: p.remove_all_hooks(), pickled=False
    ),
    "sequential offload": Change(offload_sequentially, lambda pipe: pipe.remove_all_hooks(), pickled=False),
    "unet checkpointing": Change(
        lambda pipe: pipe.unet.enable_gradient_checkpointing(),
        lambda pipe: pipe.unet.disable_gradient_checkpointing(),
        pickled=False,
    ),
    "text checkpointing": Change(
        lambda pipe: pipe.text_encoder.gradient_checkpointing_enable(),
        lambda pipe: pipe.text_encoder.gradient_checkpointing_disable(),
        pickled=False,
    ),
    "training": Change(both(lambda part: part.train()), both(lambda part: part.eval())),
    "frozen": Change(both(lambda p: p.requires_grad_(False)), both(lambda part: part.requires_grad_(True))),
    "channels last": Change(
        lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
        lambda pipe: pipe.unet.to(memory_format=torch.contiguous_format),
    ),
    "eager attention": Change(
        lambda pipe: pipe.text_encoder.set_attn_implementation("eager"),
        lambda pipe: pipe.text_encoder.set_attn_implementation("sdpa"),
    ),
    "hidden states": Change(set_hidden(True), set_hidden(False), pickled=False),  # hooks of transformers
    "components used again": Change(use_again),
}
if DIFFUSERS >= (0, 36):
    CHANGES["attention backend"] = Change(
        lambda pipe: pipe.unet.set_attention_backend("_native_math"), lambda pipe: pipe.unet.reset_attention_backend()
    )
if DIFFUSERS >= (0, 38):  # older versions ask for the accelerator itself
    CHANGES["group offload"] = Change(
        lambda pipe: pipe.enable_group_offload(onload_device=CPU, offload_type="leaf_level"), pickled=False
    )
