"""Settings of a module beside its weights: kept by attaching and detaching, or named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from overlays import drawn, generator, make_delta, make_eraser, make_projection
from torch import nn

from robust_encoders import CompatibilityWarning, IncompatibleError, LoadedArtifact, RobustEncoder
from robust_encoders.artifact.manifest import Manifest

MakePipe = Callable[..., Any]
IDS = torch.tensor([[3, 5, 7]])


@pytest.fixture(autouse=True)
def no_surprises() -> Any:
    """Any warning of ours that a test does not ask for fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        yield


def checkpointing(module: Any) -> list[bool]:
    return [part.gradient_checkpointing for part in module.modules() if hasattr(part, "gradient_checkpointing")]


def test_the_new_encoder_has_the_settings_of_the_old_one(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    old = tiny_pipe.text_encoder
    old.set_attn_implementation("eager")
    old.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    old.config.output_attentions = old.config.output_hidden_states = True
    new = tiny_encoder.attach(tiny_pipe).text_encoder
    assert new.config._attn_implementation == "eager"
    output = new(IDS)
    assert len(output.attentions) == 2
    assert len(output.hidden_states) == 3
    assert all(checkpointing(new))
    assert checkpointing(new) == checkpointing(old)
    functions = [{id(getattr(part, "_gradient_checkpointing_func", 0)) for part in m.modules()} for m in (new, old)]
    assert functions[0] & functions[1]
    new.requires_grad_(False).train()
    assert new(IDS)[0].requires_grad == old.requires_grad_(False).train()(IDS)[0].requires_grad
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is old
    assert old.config._attn_implementation == "eager"


def test_settings_that_changed_meanwhile_are_those_of_the_old_encoder(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_encoder: Any, make_pipe: MakePipe
) -> None:
    old = tiny_pipe.text_encoder
    new = tiny_encoder.attach(tiny_pipe).text_encoder
    new.set_attn_implementation("eager")
    new.gradient_checkpointing_enable()
    new.train().requires_grad_(False)
    new.get_input_embeddings().requires_grad_(True)
    second = make_encoder(make_pipe(), seed=2, name="square")
    second.attach(tiny_pipe, replace=True)
    tiny_pipe.text_encoder.config.output_hidden_states = True
    second.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is old
    assert old.config._attn_implementation == "eager"
    assert old.config.output_hidden_states
    assert all(checkpointing(old))
    assert all(part.training for part in old.modules())
    trainable = [name for name, parameter in old.named_parameters() if parameter.requires_grad]
    assert [name.rpartition("embeddings.")[2] for name in trainable] == ["token_embedding.weight"]


def masks_of(pipe: Any) -> list[Any]:
    """Return the attention masks that the pipeline passes to its text encoder."""
    passed: list[Any] = []
    note = pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, options: passed.append(options.get("attention_mask")), with_kwargs=True
    )
    pipe.encode_prompt("a red circle", pipe.device, 1, False)
    note.remove()
    return passed


def test_the_padding_is_masked_as_the_old_encoder_has_it(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    old = tiny_pipe.text_encoder
    assert masks_of(tiny_pipe) == [None]
    old.config.use_attention_mask = True
    (before,) = masks_of(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    (after,) = masks_of(tiny_pipe)
    assert torch.equal(after, before)
    tiny_pipe.text_encoder.config.use_attention_mask = False
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is old
    assert old.config.use_attention_mask is False


def test_a_mask_of_the_padding_that_came_after_attaching_stays(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    assert masks_of(tiny_pipe) == [None]
    tiny_pipe.text_encoder.config.use_attention_mask = True
    tiny_encoder.detach(tiny_pipe)
    assert masks_of(tiny_pipe) != [None]


@pytest.mark.parametrize("overlay", [False, True])
def test_hidden_states_are_returned_before_between_and_after(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, overlay: bool
) -> None:
    artifact = make_projection(tiny_pipe) if overlay else tiny_encoder

    def returned() -> int:
        return len(tiny_pipe.text_encoder(IDS, output_hidden_states=True).hidden_states)

    artifact.attach(tiny_pipe)
    assert returned() == 3
    artifact.detach(tiny_pipe)
    assert returned() == 3
    artifact.attach(tiny_pipe)
    assert returned() == 3


def test_settings_that_nobody_touched_are_each_encoders_own(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    old = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    old.requires_grad_(False)  # a sibling pipeline's owner does it meanwhile
    old.train()
    tiny_encoder.detach(tiny_pipe)
    assert old.training
    assert not any(parameter.requires_grad for parameter in old.parameters())


def test_several_precisions_in_one_encoder_are_followed(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    old = tiny_pipe.text_encoder.to(torch.bfloat16)
    getattr(old, "text_model", old).final_layer_norm.to(torch.float32)
    new = tiny_encoder.attach(tiny_pipe).text_encoder
    kinds = {name: parameter.dtype for name, parameter in old.named_parameters()}
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}
    assert {name: parameter.dtype for name, parameter in new.named_parameters()} == kinds
    assert tiny_encoder.dtype == torch.float32


@pytest.mark.parametrize("kind", ["forward", "backward", "patched"])
def test_what_cannot_be_moved_to_the_new_encoder_is_named(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, kind: str
) -> None:
    part = tiny_pipe.text_encoder.get_input_embeddings()
    if kind == "patched":
        forward = part.forward
        part.forward = lambda ids: forward(ids)
    else:
        getattr(part, f"register_{'full_' * (kind == 'backward')}{kind}_hook")(lambda *_: None)
    check = tiny_encoder.check(tiny_pipe)["hooks"]
    assert not check.ok
    assert check.severity == "warning"
    assert check.found.startswith("a replaced forward of" if kind == "patched" else "hooks on")
    assert "token_embedding" in check.found


def test_removed_offloading_is_no_replaced_forward(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.enable_model_cpu_offload(device="cpu")
    tiny_pipe.remove_all_hooks()
    assert "forward" in vars(tiny_pipe.text_encoder)
    assert tiny_encoder.check(tiny_pipe)["hooks"].ok
    make_eraser(tiny_pipe).attach(tiny_pipe)


def test_a_patched_unet_is_refused_by_overlays(tiny_pipe: Any) -> None:
    """The closure calls layers of the original, so an overlay on the copy's layers would have no effect."""
    block = tiny_pipe.unet.mid_block
    forward = block.forward
    block.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    with pytest.raises(IncompatibleError, match=r"state of the unet: .* a replaced forward of mid_block; attach first"):
        make_eraser(tiny_pipe).attach(tiny_pipe)


class Recorder:
    """A hook with a memory, of a user's program."""

    def __init__(self) -> None:
        self.seen: list[torch.Size] = []

    def note(self, module: nn.Module, args: Any, output: Any) -> None:
        self.seen.append(output.shape)


class Noted(AttnProcessor):  # type: ignore[misc]  # diffusers' types are not followed
    """An attention processor with a memory, of a user's program."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(1)
        return super().__call__(*args, **kwargs)


def test_hooks_and_processors_of_other_code_keep_their_memory(tiny_pipe: Any) -> None:
    recorder, processor = Recorder(), Noted()
    handle = tiny_pipe.unet.conv_in.register_forward_hook(recorder.note)
    tiny_pipe.unet.set_attn_processor(processor)
    eraser = make_eraser(tiny_pipe)
    with pytest.warns(CompatibilityWarning, match="hooks of the unet: .* hooks on conv_in; they act on the copy"):
        eraser.attach(tiny_pipe)
    drawn(tiny_pipe, "a red circle")
    assert len(recorder.seen) == 2  # one for each step
    assert processor.calls
    eraser.detach(tiny_pipe)
    handle.remove()
    drawn(tiny_pipe, "a red circle")
    assert len(recorder.seen) == 2


def test_a_changed_scale_keeps_what_the_user_set_meanwhile(tiny_pipe: Any, make_pipe: MakePipe) -> None:
    eraser, delta = make_eraser(tiny_pipe), make_delta(tiny_pipe)
    eraser.attach(tiny_pipe)
    tiny_pipe.enable_freeu(0.9, 0.2, 1.5, 1.6)
    delta.attach(tiny_pipe)  # makes a new copy of the UNet
    other = make_pipe()
    other.enable_freeu(0.9, 0.2, 1.5, 1.6)
    for overlay in (eraser, delta):
        overlay.attach(other)
    assert torch.equal(drawn(tiny_pipe, "a red circle"), drawn(other, "a red circle"))
    sibling = make_pipe()
    assert not hasattr(sibling.unet.up_blocks[0], "s1")


# Inference mode


def saved(artifact: Any, folder: Any) -> LoadedArtifact:
    artifact.save_pretrained(folder)
    with torch.inference_mode():
        return LoadedArtifact.from_pretrained(folder)


def made_inside(artifact: Any) -> LoadedArtifact:
    with torch.inference_mode():
        tensors = {name: tensor.clone() for name, tensor in artifact.tensors.items()}
        made: LoadedArtifact = type(artifact)(artifact.manifest, tensors, artifact.config)
    return made


MAKERS: dict[str, Callable[[Any], Any]] = {
    "projection": make_projection,
    "delta": make_delta,
    "eraser": make_eraser,
}


@pytest.mark.parametrize("inside", ["loaded", "made", "attached"])
@pytest.mark.parametrize("form", ["encoder", *MAKERS])
def test_inference_mode_while_loading_or_attaching_leaves_trainable_tensors(
    tiny_pipe: Any, make_encoder: Any, form: str, inside: str, tmp_path: Any
) -> None:
    artifact = MAKERS.get(form, make_encoder)(tiny_pipe)
    expected = drawn(artifact.attach(tiny_pipe), "a red circle")
    artifact.detach(tiny_pipe)
    if inside != "attached":
        artifact = saved(artifact, tmp_path / "artifact") if inside == "loaded" else made_inside(artifact)
    with torch.inference_mode(inside == "attached"):
        artifact.attach(tiny_pipe)
    assert torch.equal(drawn(tiny_pipe, "a red circle"), expected)
    for part in (tiny_pipe.text_encoder, tiny_pipe.unet):
        part.requires_grad_(True)
    embeds = tiny_pipe.text_encoder(torch.zeros(1, 24, dtype=torch.long))[0]
    tiny_pipe.unet(torch.randn(1, 4, 8, 8, generator=generator(0)), 1, embeds).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in tiny_pipe.unet.conv_in.parameters())
    with torch.inference_mode(inside == "attached"):
        artifact.detach(tiny_pipe)
    assert not any(parameter.is_inference() for parameter in tiny_pipe.unet.parameters())


@pytest.mark.parametrize("form", ["encoder", *MAKERS])
def test_a_pipeline_that_was_loaded_in_inference_mode(make_pipe: MakePipe, make_encoder: Any, form: str) -> None:
    artifact = MAKERS.get(form, make_encoder)(make_pipe())
    expected = drawn(artifact.attach(make_pipe()), "a red circle")
    with torch.inference_mode():
        pipe = make_pipe()
    before = drawn(pipe, "a red circle")
    assert torch.equal(drawn(artifact.attach(pipe), "a red circle"), expected)
    artifact.detach(pipe)
    assert torch.equal(drawn(pipe, "a red circle"), before)


def test_loading_does_not_switch_gradients_on(tiny_encoder: RobustEncoder, tmp_path: Any) -> None:
    tiny_encoder.save_pretrained(tmp_path / "encoder")
    with torch.inference_mode():
        loaded = RobustEncoder.from_pretrained(tmp_path / "encoder")
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    with torch.no_grad():
        RobustEncoder.from_pretrained(tmp_path / "encoder")
        assert not torch.is_grad_enabled()
    assert isinstance(loaded.manifest, Manifest)
    assert not any(tensor.requires_grad for tensor in loaded.tensors.values())
