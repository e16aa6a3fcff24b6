"""Every kind of pipeline that people have: attach, draw, detach, or a refusal with reason and remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForText2Image,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.modular_pipelines import ComponentsManager, ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam
from several_encoders import flux, sd3, sdxl
from tiny_models import make_unet
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from robust_encoders import (
    AlreadyAttachedError,
    Base,
    CompatibilityWarning,
    IncompatibleError,
    RobustEncoder,
    StaleAttachmentError,
)

MakePipe = Callable[..., Any]
MakeEncoder = Callable[..., RobustEncoder]
SIZE = 16
# Called through Any: the libraries' own types are not followed.
LOADERS: Any = diffusers


@pytest.fixture(autouse=True)
def no_surprises() -> Any:
    """Any warning of ours that a test does not ask for fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        yield


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def picture(channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, SIZE, SIZE, generator=generator())


def run(pipe: Any, prompt: str = "a red circle", **inputs: Any) -> torch.Tensor:
    """Draw with few steps, at full strength where a starting picture would hide the prompt."""
    pipe.set_progress_bar_config(disable=True)
    images = pipe(prompt, num_inference_steps=2, output_type="pt", generator=generator(), **inputs).images
    assert isinstance(images, torch.Tensor)
    return images


def unet_of(channels: int) -> Any:
    """Return a tiny UNet that reads so many channels, for inpainting and depth."""
    fields = {name: value for name, value in make_unet().config.items() if not name.startswith("_")}
    kind: Any = UNet2DConditionModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**{**fields, "in_channels": channels}).eval()


def plain(pipe: Any) -> tuple[Any, dict[str, Any]]:
    return pipe, {"height": SIZE, "width": SIZE}


def image_to_image(pipe: Any) -> tuple[Any, dict[str, Any]]:
    return _made(StableDiffusionImg2ImgPipeline, pipe), {"image": picture(), "strength": 1.0}


def inpaint(pipe: Any) -> tuple[Any, dict[str, Any]]:
    made = _made(StableDiffusionInpaintPipeline, pipe, unet=unet_of(9))
    mask = torch.ones(1, 1, SIZE, SIZE)
    return made, {"image": picture(), "mask_image": mask, "height": SIZE, "width": SIZE, "strength": 1.0}


def depth(pipe: Any) -> tuple[Any, dict[str, Any]]:
    kind: Any = StableDiffusionDepth2ImgPipeline
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    # The estimator is only asked where no map is given.
    estimator: Any = DPTForDepthEstimation
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = DPTConfig(image_size=SIZE, patch_size=8, backbone_out_indices=[0, 1, 2, 3], **size)
    made = kind(
        **parts, unet=unet_of(5), depth_estimator=estimator(config).eval(), feature_extractor=DPTImageProcessor()
    )
    return made, {"image": picture(), "depth_map": torch.rand(1, SIZE, SIZE, generator=generator()), "strength": 1.0}


def control_net(pipe: Any) -> tuple[Any, dict[str, Any]]:
    net: Any = ControlNetModel
    # Halved once, as the tiny autoencoder does.
    guide = net.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    made = _made(StableDiffusionControlNetPipeline, pipe, controlnet=guide)
    return made, {"image": picture(), "height": SIZE, "width": SIZE}


def chosen_automatically(pipe: Any) -> tuple[Any, dict[str, Any]]:
    auto: Any = AutoPipelineForImage2Image
    return auto.from_pipe(pipe), {"image": picture(), "strength": 1.0}


def _made(kind: Any, pipe: Any, **others: Any) -> Any:
    parts = {**pipe.components, **others, "requires_safety_checker": False}
    return kind(**{name: part for name, part in parts.items() if name != "image_encoder"})


PIPELINES = (plain, image_to_image, inpaint, depth, control_net, chosen_automatically)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_each_pipeline_is_changed_and_given_back(
    make_pipe: MakePipe, make_encoder: MakeEncoder, kind: Any, prediction_type: str
) -> None:
    source = make_pipe(prediction_type=prediction_type)
    pipe, inputs = kind(source)
    # The UNets of inpainting and depth read more channels than the base's: the encoder is of the base itself.
    encoder = make_encoder(pipe)
    before, original = run(pipe, **inputs), pipe.text_encoder
    assert encoder.attach(pipe) is pipe
    assert not torch.equal(run(pipe, **inputs), before)
    if pipe is not source:
        assert source.text_encoder is original
    encoder.detach(pipe)
    assert pipe.text_encoder is original
    assert torch.equal(run(pipe, **inputs), before)


def test_a_pipeline_from_an_attached_one_carries_the_encoder_and_says_so(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    auto: Any = AutoPipelineForText2Image
    tiny_encoder.attach(tiny_pipe)
    made = auto.from_pipe(tiny_pipe)
    assert made.text_encoder is tiny_pipe.text_encoder
    status = RobustEncoder.status(made)
    assert (status.attached, status.tracked) == (True, False)
    assert "detach has no other encoder to put back" in status.notes[0]
    tiny_encoder.detach(tiny_pipe)
    assert RobustEncoder.status(made).attached


def test_an_encoder_that_came_with_the_pipeline_is_replaced_on_demand_only(
    tiny_pipe: Any, make_encoder: MakeEncoder
) -> None:
    first, second = make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2, name="square")
    made = _made(StableDiffusionImg2ImgPipeline, first.attach(tiny_pipe))
    with pytest.raises(AlreadyAttachedError, match="found 'circle' erased by test, which came with the pipeline"):
        second.attach(made)
    with pytest.warns(CompatibilityWarning, match="base fingerprint"):
        second.attach(made, replace=True)
    second.detach(made)
    assert made.text_encoder is tiny_pipe.text_encoder


def test_a_cast_of_the_shared_encoder_is_followed(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe().to(torch.float16)
    original = pipe.text_encoder
    tiny_encoder.attach(pipe)
    StableDiffusionImg2ImgPipeline.from_pipe(pipe)  # casts the shared parts to float32 in place
    precision = pipe.text_encoder.dtype
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is original
    assert original.dtype == precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_over_and_drawn_with(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder, dtype: torch.dtype
) -> None:
    pipe = make_pipe().to(dtype)
    before = run(pipe, height=SIZE, width=SIZE)
    tiny_encoder.attach(pipe)
    assert {parameter.dtype for parameter in pipe.text_encoder.parameters()} == {dtype}
    assert not torch.equal(run(pipe, height=SIZE, width=SIZE), before)
    tiny_encoder.detach(pipe)
    assert torch.equal(run(pipe, height=SIZE, width=SIZE), before)


def test_the_safety_checker_stays(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    checker = torch.nn.Identity()
    tiny_pipe.safety_checker = checker
    tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.safety_checker is checker
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.safety_checker is checker


def test_a_pipeline_loaded_without_its_encoder_is_saved_whole(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "base")
    kind: Any = StableDiffusionPipeline
    # Without its tokenizer's files being asked for again: a tokenizer is not what this is about.
    pipe = kind.from_pretrained(tmp_path / "base", text_encoder=None, tokenizer=tiny_pipe.tokenizer)
    pipe.set_progress_bar_config(disable=True)
    tiny_encoder.attach(pipe)
    robust = run(pipe, height=SIZE, width=SIZE)
    pipe.save_pretrained(tmp_path / "robust")
    loaded = kind.from_pretrained(tmp_path / "robust", tokenizer=tiny_pipe.tokenizer)
    assert type(loaded.text_encoder) is CLIPTextModel
    assert torch.equal(run(loaded, height=SIZE, width=SIZE), robust)
    assert RobustEncoder.status(loaded).provenance == tiny_encoder.provenance


@pytest.mark.parametrize("when", ["before", "after"])
def test_skipped_layers_are_as_with_the_plain_encoder(tiny_pipe: Any, tiny_encoder: RobustEncoder, when: str) -> None:
    """Some versions of diffusers and transformers cannot skip layers at all: attaching changes nothing about it."""

    def outcome() -> str:
        try:
            return str(run(tiny_pipe, height=SIZE, width=SIZE, clip_skip=1).shape)
        except AttributeError as error:
            return str(error)

    plainly = outcome()
    tiny_encoder.attach(tiny_pipe)
    if when == "after":
        tiny_encoder.detach(tiny_pipe)
    assert outcome() == plainly


# Pipelines with further text encoders


@pytest.mark.parametrize(("kind", "inputs"), [(sdxl, {}), (flux, {"max_sequence_length": 16})])
def test_further_encoders_are_refused_unless_accepted(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, kind: Any, inputs: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    pipe = kind(tiny_pipe)
    inputs = {**inputs, "height": SIZE, "width": SIZE}
    before, original = run(pipe, **inputs), pipe.text_encoder
    with pytest.raises(IncompatibleError, match=r"found text_encoder_2; .* pass allow_partial=True"):
        tiny_encoder.attach(pipe)
    assert pipe.text_encoder is original
    with pytest.warns(CompatibilityWarning, match="other text encoders: .* found text_encoder_2; .* stays reachable"):
        tiny_encoder.attach(pipe, allow_partial=True)
    assert not torch.equal(run(pipe, **inputs), before)
    assert "other text encoders (text_encoder_2) are unchanged" in RobustEncoder.status(pipe).bypasses[0]
    tiny_encoder.detach(pipe)
    assert torch.equal(run(pipe, **inputs), before)


def test_encoders_of_another_class_are_refused_with_and_without_consent(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    pipe = sd3(tiny_pipe)
    original = pipe.text_encoder
    with pytest.raises(IncompatibleError, match="found text_encoder_2, text_encoder_3") as refused:
        tiny_encoder.attach(pipe)
    assert {"class", "other text encoders"} <= {check.name for check in refused.value.report.errors}
    with pytest.raises(
        IncompatibleError, match=r"found transformers\.CLIPTextModelWithProjection; .* behind a projection"
    ):
        tiny_encoder.attach(pipe, allow_partial=True)
    assert pipe.text_encoder is original


# Modular pipelines

TAKES_PARTS = tuple(int(part) for part in version("diffusers").split(".")[:2]) >= (0, 37)


class Conditioning(ModularPipelineBlocks):  # type: ignore[misc]
    """A block of our own: prompts to conditionings, and nothing that is drawn from them."""

    model_name = "stable-diffusion"

    @property
    def expected_components(self) -> list[Any]:
        return [ComponentSpec("text_encoder", CLIPTextModel), ComponentSpec("tokenizer", CLIPTokenizer)]

    @property
    def inputs(self) -> list[Any]:
        return [InputParam("prompt", required=True)]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [OutputParam("prompt_embeds")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> Any:
        block = self.get_block_state(state)
        ids = components.tokenizer(block.prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
        block.prompt_embeds = components.text_encoder(ids)[0]
        self.set_block_state(state, block)
        return components, state


def modular(pipe: Any, **options: Any) -> Any:
    made = Conditioning().init_pipeline(**options)
    parts = {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
    if TAKES_PARTS:
        made.update_components(**parts)
    else:
        vars(made).update(parts)
    return made


def condition(pipe: Any) -> torch.Tensor:
    embeds = pipe(prompt="a red circle", output="prompt_embeds")
    assert isinstance(embeds, torch.Tensor)
    return embeds


@pytest.mark.skipif(TAKES_PARTS, reason="this diffusers puts components into modular pipelines")
def test_a_modular_pipeline_of_an_old_diffusers_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = modular(tiny_pipe)
    with pytest.raises(IncompatibleError, match=r"diffusers >= 0\.37, found .*; pip install --upgrade diffusers"):
        tiny_encoder.attach(pipe)
    assert pipe.text_encoder is tiny_pipe.text_encoder


needs_parts = pytest.mark.skipif(not TAKES_PARTS, reason="this diffusers puts no component into modular pipelines")


@needs_parts
@pytest.mark.parametrize("managed", [False, True])
def test_a_modular_pipeline_is_changed_and_given_back(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, managed: bool
) -> None:
    manager = ComponentsManager()
    pipe = modular(tiny_pipe, **({"components_manager": manager, "collection": "ours"} if managed else {}))
    before, original, config = condition(pipe), pipe.text_encoder, dict(pipe.config)
    tiny_encoder.attach(pipe)
    assert type(pipe.text_encoder) is CLIPTextModel
    assert not torch.equal(condition(pipe), before)
    assert RobustEncoder.status(pipe).tracked
    if managed:
        assert manager.get_one(name="text_encoder", collection="ours") is pipe.text_encoder
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is original
    assert dict(pipe.config) == config
    assert torch.equal(condition(pipe), before)
    if managed:
        assert manager.get_one(name="text_encoder", collection="ours") is original


@needs_parts
def test_a_manager_of_components_keeps_no_encoder_that_is_gone(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    manager = ComponentsManager()
    pipe = modular(tiny_pipe, components_manager=manager)
    before = set(manager.components)
    for _ in range(2):
        tiny_encoder.attach(pipe)
        tiny_encoder.detach(pipe)
    assert set(manager.components) == before


@needs_parts
def test_a_modular_slot_keeps_what_it_is_loaded_by(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = Conditioning().init_pipeline()
    pipe.update_components(tokenizer=tiny_pipe.tokenizer)
    pipe._component_specs["text_encoder"].pretrained_model_name_or_path = "org/base"
    tiny_encoder.attach(pipe)
    assert pipe.get_component_spec("text_encoder").pretrained_model_name_or_path != "org/base"
    tiny_encoder.detach(pipe)
    assert pipe.get_component_spec("text_encoder").pretrained_model_name_or_path == "org/base"


@needs_parts
def test_a_modular_pipeline_that_does_not_fit_is_left_alone(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = modular(make_pipe(layers=3))
    original = pipe.text_encoder
    with pytest.raises(IncompatibleError, match="layers: expected 3"):
        tiny_encoder.attach(pipe)
    assert pipe.text_encoder is original


@needs_parts
def test_an_empty_modular_pipeline_is_filled_and_emptied(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    pipe = Conditioning().init_pipeline()
    pipe.update_components(tokenizer=tiny_pipe.tokenizer)
    tiny_encoder.attach(pipe)
    assert condition(pipe).shape[-1] == 16
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is None


# Textual inversion


def learn(pipe: Any, token: str = "<thing>") -> None:
    vector = 0.1 * torch.randn(pipe.text_encoder.config.hidden_size, generator=generator())
    pipe.load_textual_inversion({token: vector})


def test_learned_tokens_follow_with_a_warning(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe()
    learn(pipe)
    before, original = run(pipe, "a <thing>", height=SIZE, width=SIZE), pipe.text_encoder
    learned = original.get_input_embeddings().weight[-1].clone()
    with pytest.warns(CompatibilityWarning, match="learned tokens: .* found <thing>; .* can bring the concept back"):
        tiny_encoder.attach(pipe)
    vectors = pipe.text_encoder.get_input_embeddings().weight
    assert vectors.shape == original.get_input_embeddings().weight.shape
    assert torch.equal(vectors[-1], learned)
    assert torch.equal(vectors[:-1], tiny_encoder.tensors["text_model.embeddings.token_embedding.weight"])
    assert not torch.equal(run(pipe, "a <thing>", height=SIZE, width=SIZE), before)
    status = RobustEncoder.status(pipe)
    assert status.intact
    assert "learned tokens (<thing>)" in status.bypasses[0]
    tiny_encoder.detach(pipe)
    assert torch.equal(run(pipe, "a <thing>", height=SIZE, width=SIZE), before)


def test_an_encoder_that_gave_its_vectors_a_place_lends_them_to_nobody_else(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder
) -> None:
    pipe, other = make_pipe(), make_pipe()
    learn(pipe)
    rows = tiny_encoder.tensors["text_model.embeddings.token_embedding.weight"].shape[0]
    with pytest.warns(CompatibilityWarning):
        tiny_encoder.attach(pipe)
    tiny_encoder.attach(other)
    assert other.text_encoder.get_input_embeddings().weight.shape[0] == rows
    assert other.text_encoder.config.vocab_size == rows


def test_unloading_learned_tokens_leaves_a_pipeline_that_fits(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe()
    learn(pipe)
    with pytest.warns(CompatibilityWarning):
        tiny_encoder.attach(pipe)
    pipe.unload_textual_inversion()
    assert RobustEncoder.status(pipe).intact
    tiny_encoder.detach(pipe)
    tiny_encoder.attach(pipe)  # the first encoder still has its learned row, which no token reaches
    assert RobustEncoder.status(pipe).intact


def test_learned_tokens_that_came_later_must_go_first(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, original = run(tiny_pipe, height=SIZE, width=SIZE), tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe)
    installed = tiny_pipe.text_encoder
    assert RobustEncoder.status(tiny_pipe).intact
    with pytest.raises(
        StaleAttachmentError, match=r"\(<thing>\): call pipe\.unload_textual_inversion\(\['<thing>'\]\) first"
    ):
        tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is installed
    tiny_pipe.unload_textual_inversion()
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert torch.equal(run(tiny_pipe, height=SIZE, width=SIZE), before)


def test_learned_tokens_follow_into_the_next_encoder(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    first, second = make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2)
    first.attach(tiny_pipe)
    learn(tiny_pipe)
    learned = tiny_pipe.text_encoder.get_input_embeddings().weight[-1].clone()
    with pytest.warns(CompatibilityWarning, match="learned tokens"):
        second.attach(tiny_pipe, replace=True)
    assert torch.equal(tiny_pipe.text_encoder.get_input_embeddings().weight[-1], learned)
    with pytest.raises(StaleAttachmentError, match="unload_textual_inversion"):
        second.detach(tiny_pipe)


def test_learned_tokens_that_the_encoder_never_got_are_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.tokenizer.add_tokens(["<thing>"])
    with pytest.raises(IncompatibleError, match=r"vocabulary: .* and not to the text encoder"):
        tiny_encoder.attach(tiny_pipe)


def test_a_token_that_took_anothers_place_is_not_given_its_vector(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    learn(tiny_pipe, "<a>")
    with pytest.warns(CompatibilityWarning):
        tiny_encoder.attach(tiny_pipe)
    tiny_pipe.unload_textual_inversion()
    tiny_pipe.load_textual_inversion({"<b>": torch.full((16,), 0.05)})  # it gets the id that <a> had
    with pytest.raises(StaleAttachmentError, match=r"inversion \(<b>\): call .*\(\['<b>'\]\) first, then detach"):
        tiny_encoder.detach(tiny_pipe)


def test_only_the_tokens_that_came_later_are_to_be_unloaded(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    learn(tiny_pipe, "<a>")
    with pytest.warns(CompatibilityWarning):
        tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe, "<b>")
    with pytest.raises(StaleAttachmentError, match=r"inversion \(<b>\): call"):
        tiny_encoder.detach(tiny_pipe)
    tiny_pipe.unload_textual_inversion(["<b>"])
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.tokenizer.get_added_vocab()["<a>"] < tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0]


def test_learned_vectors_are_known_again_in_another_precision(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    learn(tiny_pipe)
    with pytest.warns(CompatibilityWarning):
        tiny_encoder.attach(tiny_pipe)
    original = tiny_pipe.to(torch.bfloat16).text_encoder
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is not original


def test_a_slot_that_was_empty_is_not_emptied_under_learned_tokens(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.register_modules(text_encoder=None)
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match="unload_textual_inversion"):
        tiny_encoder.detach(tiny_pipe)
    tiny_pipe.unload_textual_inversion()
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is None


def test_a_token_that_a_sibling_loaded_is_told_and_does_not_hold_up_detaching(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    sibling = type(tiny_pipe)(**tiny_pipe.components, requires_safety_checker=False)
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    learn(sibling)
    told = "tokens (<thing>) have no vector in this encoder: drawing with one of them fails"
    assert told in RobustEncoder.status(tiny_pipe).bypasses
    assert not any("have no vector" in way for way in RobustEncoder.status(sibling).bypasses)
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert tiny_pipe.encode_prompt("a <thing>", tiny_pipe.device, 1, False)[0].shape[-1] == 16


def test_special_tokens_that_came_later_are_named_as_such(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.tokenizer.add_special_tokens({"additional_special_tokens": ["<special>"]})
    tiny_pipe.text_encoder.resize_token_embeddings(len(tiny_pipe.tokenizer))
    with pytest.raises(StaleAttachmentError, match=r"special tokens beyond the \d+ that .* pipe\.tokenizer"):
        tiny_encoder.detach(tiny_pipe)


def test_learned_tokens_fit_an_encoder_that_records_no_base(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    """As converted checkpoints do, whose base nobody had at hand."""
    base = Base(family="tiny", ids=("org/tiny",))
    encoder = RobustEncoder(replace(tiny_encoder.manifest, base=base), tiny_encoder.tensors, tiny_encoder.config)
    learn(tiny_pipe)
    assert encoder.check(tiny_pipe)["vocabulary"].ok
    with pytest.warns(CompatibilityWarning, match="learned tokens"):
        encoder.attach(tiny_pipe)


def test_learned_tokens_are_named_on_a_pipeline_that_came_with_the_encoder(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe)
    made = _made(StableDiffusionImg2ImgPipeline, tiny_pipe)
    assert "learned tokens (<thing>)" in RobustEncoder.status(made).bypasses[0]


# LoRA


def add_lora(pipe: Any) -> None:
    """Put a LoRA into UNet and text encoder, as ``load_lora_weights`` does with a file of both."""
    for part, targets in ((pipe.unet, ["to_q", "to_v"]), (pipe.text_encoder, ["q_proj", "v_proj"])):
        part.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def test_a_lora_is_refused_until_it_is_unloaded(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, original = run(tiny_pipe, height=SIZE, width=SIZE), tiny_pipe.text_encoder
    add_lora(tiny_pipe)
    with pytest.raises(IncompatibleError, match=r"adapters: .* call pipe\.unload_lora_weights\(\) first"):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    tiny_pipe.unload_lora_weights()
    tiny_encoder.attach(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    assert torch.equal(run(tiny_pipe, height=SIZE, width=SIZE), before)


def test_a_lora_that_came_later_is_reported_and_must_go_first(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before = run(tiny_pipe, height=SIZE, width=SIZE)
    tiny_encoder.attach(tiny_pipe)
    robust = run(tiny_pipe, height=SIZE, width=SIZE)
    add_lora(tiny_pipe)
    status = RobustEncoder.status(tiny_pipe)
    assert not status.intact
    assert any("LoRA in the text encoder" in way for way in status.bypasses)
    with pytest.raises(StaleAttachmentError, match=r"a LoRA .* call pipe\.unload_lora_weights\(\) first, then detach"):
        tiny_encoder.detach(tiny_pipe)
    tiny_pipe.unload_lora_weights()
    assert RobustEncoder.status(tiny_pipe).intact
    assert torch.equal(run(tiny_pipe, height=SIZE, width=SIZE), robust)
    tiny_encoder.detach(tiny_pipe)
    assert torch.equal(run(tiny_pipe, height=SIZE, width=SIZE), before)


def test_a_lora_that_was_fused_later_is_reported(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = tiny_encoder.attach(make_pipe())
    add_lora(pipe)
    pipe.fuse_lora(components=["text_encoder"])
    pipe.unload_lora_weights()
    status = RobustEncoder.status(pipe)
    assert not status.intact
    assert "changed since" in status.notes[0]


def test_a_lora_that_was_fused_before_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    add_lora(tiny_pipe)
    tiny_pipe.fuse_lora(components=["text_encoder"])
    tiny_pipe.unload_lora_weights()
    check = tiny_encoder.check(tiny_pipe)["base fingerprint"]
    assert not check.ok
    assert check.found.startswith("differs by")


# What else reaches the pictures


def test_status_names_every_way_around(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    ways = RobustEncoder.status(tiny_pipe).bypasses
    assert [way.partition(":")[0] for way in ways] == ["prompt_embeds", "clip_skip"]
    tiny_pipe.unet.config["encoder_hid_dim_type"] = "ip_image_proj"  # what load_ip_adapter leaves there
    tiny_pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"
    assert RobustEncoder.status(tiny_pipe).bypasses[0].startswith("an IP-Adapter")
    made = _made(StableDiffusionImg2ImgPipeline, tiny_pipe)
    assert RobustEncoder.status(made).bypasses[-1].startswith("image: ")


def test_ready_embeddings_are_drawn_as_they_are(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    embeds, negative = tiny_pipe.encode_prompt("a red circle", "cpu", 1, True)
    inputs = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "height": SIZE, "width": SIZE}
    before = run(tiny_pipe, None, **inputs)  # type: ignore[arg-type]
    tiny_encoder.attach(tiny_pipe)
    assert torch.equal(run(tiny_pipe, None, **inputs), before)  # type: ignore[arg-type]
    assert any(way.startswith("prompt_embeds") for way in RobustEncoder.status(tiny_pipe).bypasses)
