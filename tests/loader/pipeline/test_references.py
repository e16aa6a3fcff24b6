"""What went past the new encoder: tools and caches that took hold of the old one before attaching."""

from __future__ import annotations

import copy
import functools
import gc
import re
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from overlays import drawn, generator, make_adapter, make_delta, make_eraser, make_projection
from tiny_models import make_unet
from torch import Tensor

from robust_encoders import CompatibilityWarning, RobustEncoder
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX
from robust_encoders.pipeline.references import referrers

MakePipe = Callable[..., Any]
PROMPT = "a red circle"
# Called through Any: the libraries' own types are not followed.
LIBRARY: Any = diffusers


@pytest.fixture(autouse=True)
def no_surprises() -> Any:
    """Any warning of ours that a test does not ask for fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        yield


def held(pipe: Any) -> list[str]:
    """Return what the search adds to the ways around that are always named."""
    always, searched = RobustEncoder.status(pipe).bypasses, RobustEncoder.status(pipe, references=True).bypasses
    assert searched[len(searched) - len(always) :] == always
    return list(searched[: len(searched) - len(always)])


def draw_with(pipe: Any, embeds: Tensor) -> Tensor:
    negative = pipe.encode_prompt("", "cpu", 1, False)[0]
    images = pipe(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        num_inference_steps=2,
        output_type="pt",
        generator=generator(0),
    ).images
    assert isinstance(images, Tensor)
    return images


def with_negative(pipe: Any, prompt: str) -> Tensor:
    return draw_with(pipe, pipe.encode_prompt(prompt, "cpu", 1, False)[0])


class Closure:
    """An encoding function of a web server, as people write it."""

    def __init__(self, pipe: Any) -> None:
        encoder, tokenizer = pipe.text_encoder, pipe.tokenizer

        def encode(prompt: str) -> Any:
            ids = tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
            return encoder(ids)[0]

        self.encode = encode


def take_encoder(pipe: Any) -> Any:
    return {"encoder": [pipe.text_encoder]}


def take_method(pipe: Any) -> Any:
    return functools.partial(pipe.text_encoder.forward, output_hidden_states=True)


class Wrapped(torch.nn.Module):
    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.inner = pipe.text_encoder


class Kept:
    """An object that keeps something, so that a container has a name."""

    def __init__(self, value: Any) -> None:
        self.value = value


def traced(pipe: Any) -> Any:
    jit: Any = torch.jit
    return jit.trace(pipe.text_encoder, (torch.zeros(1, 24, dtype=torch.long),), strict=False)


HOLDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "closure": (Closure, "the function .*Closure.__init__.<locals>.encode"),
    "list in a dict": (lambda pipe: Kept(take_encoder(pipe)), r"an object of .*\.Kept \(value\)"),
    "method in a partial": (lambda pipe: Kept(take_method(pipe)), r"an object of .*\.Kept \(value\)"),
    "part": (lambda pipe: Kept(pipe.text_encoder.get_input_embeddings()), r"an object of .*\.Kept \(value\)"),
    "module": (Wrapped, r"an object of .*\.Wrapped"),
    "compiled": (lambda pipe: torch.compile(pipe.text_encoder, backend="eager"), "an object of .*OptimizedModule"),
    "traced": (traced, "an object of torch.jit._trace.TopLevelTracedModule"),
    "pipeline": (
        lambda pipe: StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False),
        r"an object of .*\.StableDiffusionImg2ImgPipeline \(text_encoder\)",
    ),
    "class": (lambda pipe: type("Service", (), {"encoder": pipe.text_encoder}), r"the class .*Service \(encoder\)"),
    "cached function": (lambda pipe: _remembered(pipe.text_encoder), "an object of functools._lru_cache_wrapper"),
}


def _remembered(module: Any) -> Any:
    @functools.lru_cache
    def ask(module: Any) -> int:
        return 1

    ask(module)
    return ask


@pytest.mark.parametrize("name", HOLDS)
def test_who_holds_the_old_encoder_is_named_on_request(tiny_pipe: Any, tiny_encoder: RobustEncoder, name: str) -> None:
    make, expected = HOLDS[name]
    tool = make(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    sentences = held(tiny_pipe)
    assert len(sentences) == 1 or name == "traced"  # whose parts are named, too
    pattern = re.compile(f"{expected}.* holds the text encoder that was replaced: .*build it again after attaching")
    assert any(map(pattern.match, sentences)), sentences
    del tool
    tool = make(tiny_pipe)  # built after attaching, as the recipe says
    assert held(tiny_pipe) == []
    assert tool is not None


@pytest.mark.parametrize("kind", ["encoder", "adapter", "projection", "delta", "eraser", "all"])
def test_a_fresh_pipeline_gives_no_alarm(tiny_pipe: Any, tiny_encoder: RobustEncoder, kind: str) -> None:
    original = tiny_pipe.text_encoder, tiny_pipe.unet  # a local variable does not count
    made: dict[str, Callable[[], Any]] = {
        "adapter": lambda: make_adapter(tiny_pipe, prefixes=(UNET_PREFIX, TEXT_PREFIX)),
        "projection": lambda: make_projection(tiny_pipe),
        "delta": lambda: make_delta(tiny_pipe),
        "eraser": lambda: make_eraser(tiny_pipe),
    }
    overlays = [make() for name, make in made.items() if kind == name or (kind == "all" and name != "encoder")]
    if kind == "encoder":
        tiny_encoder.attach(tiny_pipe)
    for overlay in overlays:
        overlay.attach(tiny_pipe)
    if kind == "adapter":
        overlays[0].set_scale(tiny_pipe, 0.5)
    drawn(tiny_pipe, PROMPT)
    assert held(tiny_pipe) == []
    assert len(original) == 2


@pytest.mark.parametrize("offload", [False, True])
def test_no_alarm_after_blocks_offloading_and_copies(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, offload: bool
) -> None:
    if offload:
        tiny_pipe.enable_model_cpu_offload(device="cpu")
    with tiny_encoder.attached(tiny_pipe):
        drawn(tiny_pipe, PROMPT)
        assert held(tiny_pipe) == []
    tiny_encoder.attach(tiny_pipe)
    assert held(tiny_pipe) == []
    if not offload:
        assert held(copy.deepcopy(tiny_pipe)) == []


def test_a_pipeline_with_an_encoder_of_its_own_is_no_alarm(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_encoder: Any, make_pipe: MakePipe
) -> None:
    sibling = StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False)
    make_encoder(make_pipe(), seed=2, name="square").attach(sibling)
    make_projection(make_pipe()).attach(other := make_pipe())
    tiny_encoder.attach(tiny_pipe)
    assert held(tiny_pipe) == []
    assert held(other) == []


class Shy:
    """A proxy as of a web framework, which outside of a request refuses even to name its class."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")


def test_objects_that_refuse_to_answer_do_no_harm(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    shy = Shy()
    object.__getattribute__(shy, "__dict__")["encoder"] = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    (sentence,) = held(tiny_pipe)
    assert sentence.startswith("an object of ")
    assert "Shy (encoder) holds the text encoder" in sentence


def test_a_variable_of_a_program_is_named(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    program: dict[str, Any] = {"pipe": tiny_pipe, "__name__": "service"}
    exec("encoder = pipe.text_encoder", program)
    tiny_encoder.attach(tiny_pipe)
    (sentence,) = held(tiny_pipe)
    assert sentence.startswith("the variable encoder of service holds the text encoder")


def test_tools_that_hold_a_unet_or_an_earlier_overlay_are_named(tiny_pipe: Any) -> None:
    tool = Kept(tiny_pipe.unet)
    adapter = make_adapter(tiny_pipe, prefixes=(UNET_PREFIX, TEXT_PREFIX))
    adapter.attach(tiny_pipe)
    assert [way.partition(" holds ")[2].partition(":")[0] for way in held(tiny_pipe)] == ["the unet that was replaced"]
    tool.value = tiny_pipe.text_encoder  # the text encoder with the adapter at full strength
    adapter.set_scale(tiny_pipe, 0.5)
    assert [way.partition(" holds ")[2].partition(":")[0] for way in held(tiny_pipe)] == [
        "the text encoder that was replaced"
    ]


# Prompt weighting


def test_compel_brings_the_concept_back_unless_it_is_built_after_attaching(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    compel = pytest.importorskip("compel")
    make = functools.partial(compel.Compel, tokenizer=tiny_pipe.tokenizer)
    before, weighted = make(text_encoder=tiny_pipe.text_encoder), f"{PROMPT}++ on a white background"
    plain = before(weighted)
    tiny_encoder.attach(tiny_pipe)
    assert torch.equal(before(weighted), plain)  # the old encoder computed it
    (sentence,) = held(tiny_pipe)
    assert sentence.startswith("an object of compel.embeddings_provider.EmbeddingsProvider (text_encoder) holds")
    after = make(text_encoder=tiny_pipe.text_encoder)
    assert not torch.equal(after(weighted), plain)
    torch.testing.assert_close(after(PROMPT), tiny_pipe.encode_prompt(PROMPT, "cpu", 1, False)[0])
    del before
    assert held(tiny_pipe) == []


class Weighted:
    """Weighted prompts in the way of sd_embed: parts of a prompt, each times its weight, and a cache of them.

    Args:
        pipe: Pipeline whose text encoder is asked at every call.
        cache: Embeddings (1, L, D) by prompt.
    """

    def __init__(self, pipe: Any, cache: dict[str, Any]) -> None:
        self.pipe, self.cache = pipe, cache

    def __call__(self, parts: list[tuple[str, float]]) -> Tensor:
        key = str(parts)
        if key not in self.cache:
            self.cache[key] = self._encoded(parts)
        found: Tensor = self.cache[key]
        return found

    @torch.no_grad()
    def _encoded(self, parts: list[tuple[str, float]]) -> Tensor:
        tokenizer = self.pipe.tokenizer
        ids, weights = [tokenizer.bos_token_id], [1.0]
        for text, weight in parts:
            tokens = tokenizer(text, add_special_tokens=False).input_ids
            ids, weights = ids + tokens, weights + [weight] * len(tokens)
        left = tokenizer.model_max_length - len(ids)
        ids, weights = ids + [tokenizer.eos_token_id] * left, weights + [1.0] * left
        embeds: Tensor = self.pipe.text_encoder(torch.tensor([ids]))[0]
        return embeds * torch.tensor(weights).view(1, -1, 1)


PARTS = [("a red", 1.0), ("circle", 1.4)]


def test_a_cache_of_embeddings_keeps_the_concept_and_the_recipe_is_printed(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    weighted = Weighted(tiny_pipe, {})
    plain = weighted(PARTS)
    tiny_encoder.attach(tiny_pipe)
    assert torch.equal(weighted(PARTS), plain)  # from the cache
    assert held(tiny_pipe) == []  # nothing refers to the old encoder; tensors do not say who computed them
    (recipe,) = (way for way in RobustEncoder.status(tiny_pipe).bypasses if way.startswith("prompt_embeds: "))
    assert "caches of embeddings" in recipe
    assert "build them after attaching" in recipe
    renewed = Weighted(tiny_pipe, {})(PARTS)
    assert not torch.equal(renewed, plain)
    assert not torch.equal(draw_with(tiny_pipe, renewed), draw_with(tiny_pipe, plain))


@pytest.mark.parametrize("overlay", [None, make_projection])
def test_embeddings_kept_in_the_pipeline_are_named(tiny_pipe: Any, tiny_encoder: RobustEncoder, overlay: Any) -> None:
    tiny_pipe.prompts = {}
    tiny_pipe.latents = torch.zeros(1, 4, 8, 16)
    tiny_pipe.ids = torch.zeros(1, 24, 16, dtype=torch.long)
    (overlay(tiny_pipe) if overlay else tiny_encoder).attach(tiny_pipe)
    assert not any("prompts" in way for way in RobustEncoder.status(tiny_pipe).bypasses)
    Weighted(tiny_pipe, tiny_pipe.prompts)(PARTS)
    sentences = [way for way in RobustEncoder.status(tiny_pipe).bypasses if way.startswith("pipe.")]
    assert [sentence.partition(":")[0] for sentence in sentences] == ["pipe.prompts"]
    assert "compute it again after attaching" in sentences[0]


# Marigold


def marigold(pipe: Any) -> Any:
    """Return a pipeline that estimates depths and keeps the embedding of its only prompt, the empty one."""
    fields = {name: value for name, value in make_unet().config.items() if not name.startswith("_")}
    kind: Any = LIBRARY.UNet2DConditionModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = kind(**{**fields, "in_channels": 8}).eval()
    made = LIBRARY.MarigoldDepthPipeline(
        unet, pipe.vae, pipe.scheduler, pipe.text_encoder, pipe.tokenizer, prediction_type="depth",
        default_denoising_steps=1, default_processing_resolution=16, scale_invariant=True, shift_invariant=True,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def depths(pipe: Any) -> Tensor:
    picture = torch.rand(1, 3, 16, 16, generator=generator(0))
    found = pipe(picture, output_type="pt", generator=generator(1)).prediction
    assert isinstance(found, Tensor)
    return found


def test_the_embedding_that_marigold_keeps_is_computed_again(make_pipe: MakePipe, make_encoder: Any) -> None:
    encoder = make_encoder(make_pipe(), base=_without_unet(make_pipe()))
    unused, used = marigold(make_pipe()), marigold(make_pipe())
    plain = depths(used)
    expected = depths(encoder.attach(unused))
    assert torch.equal(depths(encoder.attach(used)), expected)
    assert not torch.equal(expected, plain)
    encoder.detach(used)
    assert torch.equal(depths(used), plain)


def _without_unet(pipe: Any) -> Any:
    from robust_encoders import Base

    return Base.from_pipeline(pipe, family="tiny", ids=("org/tiny",))


# Overlays alone


@pytest.mark.parametrize(
    ("make", "ways"),
    [
        (make_projection, ["prompt_embeds", "clip_skip"]),
        (lambda pipe: make_adapter(pipe, prefixes=(TEXT_PREFIX,)), ["prompt_embeds", "clip_skip"]),
        (make_delta, []),
        (make_eraser, []),
    ],
)
def test_ways_past_overlays_alone_are_named(tiny_pipe: Any, make: Any, ways: list[str]) -> None:
    make(tiny_pipe).attach(tiny_pipe)
    status = RobustEncoder.status(tiny_pipe)
    assert not status.attached
    assert [way.partition(":")[0] for way in status.bypasses] == ways
    tiny_pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"  # what load_ip_adapter leaves there
    made = StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False)
    status = RobustEncoder.status(made)
    assert [way.partition(":")[0] for way in status.bypasses] == ["an IP-Adapter", *ways, "image"]
    assert status.notes[0].endswith("carries overlays that came from another pipeline, so detach works only there")


def test_a_plain_pipeline_has_nothing_to_go_past(tiny_pipe: Any) -> None:
    assert RobustEncoder.status(tiny_pipe, references=True) == RobustEncoder.status(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).bypasses == ()


def test_a_lora_in_the_unet_is_named(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    import peft

    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    assert RobustEncoder.status(tiny_pipe).bypasses[0].startswith("a LoRA in the unet: ")


def test_an_overlay_whose_component_was_replaced_is_named(tiny_pipe: Any) -> None:
    original = tiny_pipe.unet
    make_eraser(tiny_pipe).attach(tiny_pipe)
    tiny_pipe.unet = original
    status = RobustEncoder.status(tiny_pipe)
    (note,) = status.notes
    assert note.startswith("overlays were attached to pipe.unet, but another object has taken its place since")


def test_an_encoder_does_not_drop_overlays_that_came_along(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_pipe: MakePipe
) -> None:
    make_projection(make_pipe()).attach(tiny_pipe)
    made = StableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    before = drawn(made, PROMPT)
    with pytest.raises(Exception, match=r"overlays: .* came with components of another pipeline"):
        tiny_encoder.attach(made)
    assert torch.equal(drawn(made, PROMPT), before)


def test_the_search_finds_what_the_garbage_collector_finds() -> None:
    heap = [{"position": [i]} for i in range(2000)]
    wanted = [heap[i]["position"] for i in (0, 511, 512, 1999)]
    holders: list[Any] = [Kept(wanted[0]), functools.partial(print, wanted[1]), (wanted[2], wanted[3])]
    objects = [*heap, *holders, *(vars(one) for one in holders if isinstance(one, Kept))]
    known = {id(one) for one in objects}
    expected = {id(one) for one in gc.get_referrers(*wanted)} & known
    found = [id(one) for one in referrers(wanted, objects)]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(expected) >= 6
