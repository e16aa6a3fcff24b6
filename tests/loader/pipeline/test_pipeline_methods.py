"""What a pipeline's own methods change before attaching, or between attach and detach: it works, or says what to undo.

A change before attaching and the same change after it give the same pipeline; after detaching it is as if nothing had
been attached. The tables name the pairs that are refused, with a part of the remedy.
"""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from copies import Stock
from diffusers import DDIMScheduler, StableDiffusionPipeline
from overlays import (
    make_adapter,
    make_delta,
    make_eraser,
    make_projection,
    manifest_for,
)
from pipeline_methods import CHANGES
from tiny_models import make_text_encoder, make_tokenizer, make_unet, make_vae

from robust_encoders import CompatibilityWarning, IncompatibleError, RobustEncoder, StaleAttachmentError
from robust_encoders.clip.state_dict import nested_state, unwrapped
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX

FreshPipe = Callable[[], Any]
FORMS = ("encoder", "adapter", "projection", "delta", "eraser")
ON_THE_UNET, ON_THE_TEXT = ("adapter", "delta", "eraser"), ("adapter", "projection")
Refusals = Mapping[tuple[str, str], str]


def _table(*rows: tuple[str, tuple[str, ...], str]) -> Refusals:
    return {(change, form): remedy for change, forms, remedy in rows for form in forms}


OVERLAYS = FORMS[1:]
LATER = "attach first, then compile, patch or enable offloading"
REFUSED_BEFORE = _table(
    ("fused projections", ON_THE_UNET, r"pipe\.unfuse_qkv_projections\(\)"),
    ("lora with text", FORMS, r"call pipe\.unload_lora_weights\(\)"),
    ("layerwise casting", OVERLAYS, LATER),
    ("compiled unet", OVERLAYS, LATER),
    ("unet compiled in place", OVERLAYS, LATER),
    ("sequential offload", OVERLAYS, LATER),
    ("group offload", OVERLAYS, LATER),
    ("group offload", ("encoder",), "attach before enabling it"),
)
UNLOAD = r"call pipe\.unload_lora_weights\(\)"
REFUSED_TO_DETACH = _table(
    ("fused projections", ON_THE_UNET, r"pipe\.unfuse_qkv_projections\(\)"),
    ("lora", ON_THE_UNET, UNLOAD),
    ("lora with text", FORMS, UNLOAD),
    ("lora off", ON_THE_UNET, UNLOAD),
    ("lora fused", ON_THE_UNET, UNLOAD),
    ("textual inversion", ("encoder", *ON_THE_TEXT), r"call pipe\.unload_textual_inversion\("),
    ("ip-adapter", ON_THE_UNET, r"call pipe\.unload_ip_adapter\(\)"),
    ("layerwise casting", ON_THE_UNET, "undo it, or load the pipeline again"),
    ("group offload", FORMS, "load the pipeline again"),
)
AGAIN = "load it again"
REFUSED_WHERE_UNDONE_MEANWHILE = _table(
    ("lora", ON_THE_UNET, AGAIN),
    ("lora off", ON_THE_UNET, AGAIN),
    ("lora fused", ON_THE_UNET, AGAIN),
    ("ip-adapter", ON_THE_UNET, AGAIN),
    ("textual inversion", ON_THE_TEXT, AGAIN),
)
# Fused projections hide layers with adapters, so drawing is refused, too.
REFUSED_TO_DRAW = _table(("fused projections", ("adapter",), r"pipe\.unfuse_qkv_projections\(\)"))
# A delta replaces weights that a LoRA was fused into before; one that is fused later is added to the delta. Fused
# projections that were made before a delta would ignore it.
OTHER_ORDER = {("lora fused", "delta")}
# The prompts of an adapter are encoded when it is attached, by the attention implementation of that moment.
# The same holds for the type, where the encoder's version rounds elsewhere: one unit of bfloat16.
ROUNDED = {("eager attention", "adapter"): 1e-4, ("to dtype", "adapter"): 2**-7}
UNDOABLE = tuple(name for name, change in CHANGES.items() if change.undo is not None)
PICKLED = tuple(name for name, change in CHANGES.items() if change.pickled)
LISTED = {
    *REFUSED_BEFORE,
    *REFUSED_TO_DETACH,
    *REFUSED_WHERE_UNDONE_MEANWHILE,
    *REFUSED_TO_DRAW,
    *OTHER_ORDER,
    *ROUNDED,
}


def of_every_form(changes: Iterable[str]) -> pytest.MarkDecorator:
    """Every change with every form. Pairs in no table are slow tests, but for one form of each change in turn."""
    pairs = [
        pytest.param(
            change, form, marks=() if form == FORMS[i % len(FORMS)] or (change, form) in LISTED else pytest.mark.slow
        )
        for i, change in enumerate(changes)
        for form in FORMS
    ]
    return pytest.mark.parametrize(("change", "form"), pairs)


@pytest.fixture(autouse=True)
def warnings_are_another_matter() -> Any:
    """Warnings that something was never measured, or stays behind, have tests of their own; so has compiled code."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Return a tiny pipeline of which equal copies can be made."""
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {"text_encoder": make_text_encoder(tokenizer), "unet": make_unet(), "vae": make_vae()}
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe: Any = StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return Stock(pipe)


@pytest.fixture
def fresh(stock: Stock) -> FreshPipe:
    """Return a maker of equal pipelines."""
    return stock.copy


@pytest.fixture(scope="module")
def artifacts(stock: Stock) -> Mapping[str, Any]:
    """Return one artifact of each form."""
    pipe = stock.copy()
    g = torch.Generator().manual_seed(1)
    state = nested_state(pipe.text_encoder)
    weights = {name: value + 0.1 * torch.randn(value.shape, generator=g) for name, value in state.items()}
    manifest = manifest_for(pipe, "circle", "weights", "text_encoder", "test")
    encoder = RobustEncoder(manifest, weights, pipe.text_encoder.config.to_dict())
    return {
        "encoder": encoder,
        "adapter": make_adapter(pipe, prefixes=(UNET_PREFIX, TEXT_PREFIX)),
        "projection": make_projection(pipe),
        "delta": make_delta(pipe),
        "eraser": make_eraser(pipe),
    }


@pytest.fixture
def attachable(artifacts: Mapping[str, Any], form: str) -> Any:
    """Return an artifact with tensors of its own, because a LoRA that is fused changes them in place."""
    one = artifacts[form]
    return type(one)(one.manifest, {name: tensor.clone() for name, tensor in one.tensors.items()}, one.config)


@torch.no_grad()
def draw(pipe: Any) -> torch.Tensor:
    """Return latents after one step of drawing."""
    images = {}
    if getattr(unwrapped(pipe.unet).config, "encoder_hid_dim_type", None) == "ip_image_proj":
        images = {"ip_adapter_image_embeds": [torch.ones(2, 1, 8, dtype=pipe.unet.dtype)]}
    g = torch.Generator().manual_seed(0)
    found = pipe("a red circle", num_inference_steps=1, output_type="latent", generator=g, **images).images
    assert isinstance(found, torch.Tensor)
    return found


# What torch and transformers note for themselves.
NOTES = ("_is_torch_compile", "_output_capturing_hooks_installed")


def state(pipe: Any) -> dict[tuple[str, ...], Any]:
    """Return the settings of the components that overlays or encoders replace."""
    found: dict[tuple[str, ...], Any] = {}
    for component in ("unet", "text_encoder"):
        module = unwrapped(getattr(pipe, component))
        for name, part in module.named_modules():
            if name.endswith(("to_qkv", "to_kv", "token_embedding")):
                continue  # left by unfuse_qkv_projections; renewed by unload_textual_inversion
            plain = {key: value for key, value in vars(part).items() if isinstance(value, (bool, int, float, str))}
            found |= {(component, name, key): value for key, value in plain.items() if key not in NOTES}
            processor = getattr(part, "processor", None)
            found[component, name, "processor"] = type(processor), getattr(processor, "_attention_backend", None)
        for name, parameter in module.named_parameters():
            if not name.endswith(("to_qkv.weight", "to_kv.weight", "token_embedding.weight")):
                found[component, name] = parameter.requires_grad, parameter.dtype, parameter.shape, parameter.stride()
    config = pipe.text_encoder.config
    found["flags",] = config.output_hidden_states, config._attn_implementation
    return found


def require_as(pipe: Any, plain: Any, *objects: Any) -> None:
    """Check that a pipeline draws what a plain one does and has its settings, and the given components."""
    assert torch.equal(draw(pipe), draw(plain))
    now, then = state(pipe), state(plain)
    assert {key: (now.get(key), then.get(key)) for key in now | then if now.get(key) != then.get(key)} == {}
    for before, after in zip(objects, (pipe.unet, pipe.text_encoder), strict=False):
        assert after is before


def refusal(table: Refusals, kind: type[Exception], change: str, form: str) -> Any:
    return pytest.raises(kind, match=table[change, form])


@of_every_form(CHANGES)
def test_before(fresh: FreshPipe, attachable: Any, change: str, form: str) -> None:
    pipe, plain = fresh(), fresh()
    for one in (pipe, plain):
        CHANGES[change].do(one)
    if (change, form) in REFUSED_BEFORE:
        with refusal(REFUSED_BEFORE, IncompatibleError, change, form):
            attachable.attach(pipe)
        require_as(pipe, plain)
        return
    attachable.attach(pipe)
    assert not torch.equal(draw(pipe), draw(plain))
    attachable.detach(pipe)
    require_as(pipe, plain)


@of_every_form(CHANGES)
def test_between(fresh: FreshPipe, attachable: Any, change: str, form: str) -> None:
    pipe, plain = fresh(), fresh()
    original = pipe.unet, pipe.text_encoder
    attachable.attach(pipe)
    for one in (pipe, plain):
        CHANGES[change].do(one)
    if (change, form) in REFUSED_TO_DRAW:
        with refusal(REFUSED_TO_DRAW, StaleAttachmentError, change, form):
            draw(pipe)
    else:
        assert not torch.equal(draw(pipe), draw(plain))
        if (change, form) not in {*REFUSED_BEFORE, *OTHER_ORDER}:
            before = fresh()
            CHANGES[change].do(before)
            tolerance = ROUNDED.get((change, form), 0.0)
            found, expected = draw(attachable.attach(before)), draw(pipe)
            # Relative to values above 1, where a unit of a floating-point type is as much larger.
            assert ((found - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()
    if (change, form) in REFUSED_TO_DETACH:
        now = pipe.unet, pipe.text_encoder
        with refusal(REFUSED_TO_DETACH, StaleAttachmentError, change, form):
            attachable.detach(pipe)
        assert (pipe.unet, pipe.text_encoder) == now
        return
    attachable.detach(pipe)
    if "compiled" in change:  # what replaces a compiled component is not compiled
        assert torch.equal(draw(pipe), draw(plain))
    else:
        require_as(pipe, plain, *original)


@of_every_form(UNDOABLE)
def test_undone_again(fresh: FreshPipe, attachable: Any, change: str, form: str) -> None:
    pipe, plain = fresh(), fresh()
    original = pipe.unet, pipe.text_encoder
    attachable.attach(pipe)
    for one in (pipe, plain):
        CHANGES[change].do(one)
        undo(change, one)
    attachable.detach(pipe)
    if change == "lora fused":  # adding and subtracting leaves a rounding error, which a delta's own weights keep
        torch.testing.assert_close(draw(pipe), draw(plain))
    else:
        require_as(pipe, plain, *original)


def undo(change: str, pipe: Any) -> None:
    call = CHANGES[change].undo
    assert call is not None
    call(pipe)


@of_every_form(UNDOABLE)
def test_before_and_undone_meanwhile(fresh: FreshPipe, attachable: Any, change: str, form: str) -> None:
    if (change, form) in REFUSED_BEFORE:
        return
    pipe, plain = fresh(), fresh()
    for one in (pipe, plain):
        CHANGES[change].do(one)
    attachable.attach(pipe)
    for one in (pipe, plain):
        undo(change, one)
    if (change, form) in REFUSED_WHERE_UNDONE_MEANWHILE:
        with refusal(REFUSED_WHERE_UNDONE_MEANWHILE, StaleAttachmentError, change, form):
            attachable.detach(pipe)
        return
    attachable.detach(pipe)
    if change == "textual inversion" and form == "encoder":
        assert torch.equal(draw(pipe), draw(plain))  # the original keeps its unused vector
    else:
        require_as(pipe, plain)


@of_every_form(PICKLED)
def test_pickled_and_copied(fresh: FreshPipe, attachable: Any, change: str, form: str) -> None:
    pipe = attachable.attach(fresh())
    CHANGES[change].do(pipe)
    drawable = (change, form) not in REFUSED_TO_DRAW
    if drawable:
        draw(pipe)  # what drawing leaves in memory must not matter
    for made in (pickle.loads(pickle.dumps(pipe)), copy.deepcopy(pipe)):
        assert not drawable or torch.equal(draw(made), draw(pipe))
        assert RobustEncoder.status(made) == RobustEncoder.status(pipe)
        if (change, form) in REFUSED_TO_DETACH:
            with pytest.raises(StaleAttachmentError):
                attachable.detach(made)
        else:
            attachable.detach(made)
            plain = fresh()
            CHANGES[change].do(plain)
            assert torch.equal(draw(made), draw(plain))


def make_text_adapter(pipe: Any, seed: int = 0) -> Any:
    return make_adapter(pipe, seed=seed, prefixes=(TEXT_PREFIX,), prompts=("red circle", "disc"))


@pytest.mark.parametrize(
    ("make", "component", "seeds"),
    [
        (make_projection, "text_encoder", (None, 0, 1, None)),
        (make_text_adapter, "text_encoder", (None, 0, 1, None)),
        (make_eraser, "unet", (None, 0, 1)),
    ],
)
def test_compiled_code_of_one_pipeline_is_not_used_for_another(
    fresh: FreshPipe, make: Any, component: str, seeds: tuple[int | None, ...]
) -> None:
    """torch.compile keeps its code by class, and does not look at hooks when it decides if the code fits."""
    torch.compiler.reset()
    for seed in seeds:
        pipe = fresh()
        if seed is not None:
            make(pipe, seed=seed).attach(pipe)
        with torch.compiler.set_stance("default"):
            expected = draw(pipe)
            setattr(pipe, component, torch.compile(getattr(pipe, component), backend="eager"))
            torch.testing.assert_close(draw(pipe), expected, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_saved(fresh: FreshPipe, attachable: Any, form: str, tmp_path: Any) -> None:
    pipe = attachable.attach(fresh())
    if form in ("adapter", "projection", "eraser"):
        with pytest.raises(Exception, match=re.compile("without live overlays")):
            pipe.save_pretrained(tmp_path / "pipe")
        return
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = type(pipe).from_pretrained(tmp_path / "pipe")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded), draw(pipe))


def test_every_refusal_is_of_a_change_and_a_form() -> None:
    known = {"group offload", *CHANGES}
    tables = (REFUSED_BEFORE, REFUSED_TO_DETACH, REFUSED_WHERE_UNDONE_MEANWHILE, REFUSED_TO_DRAW)
    assert {change for table in tables for change, _ in table} <= known


def test_what_cannot_be_enabled_here_changes_nothing(fresh: FreshPipe, artifacts: Mapping[str, Any]) -> None:
    """xformers is not installed, and there is no accelerator for sequential offloading."""
    pipe, plain = fresh(), fresh()
    artifacts["encoder"].attach(pipe)
    artifacts["encoder"].attach(plain)
    artifacts["eraser"].attach(pipe)
    with pytest.raises((ImportError, ValueError, RuntimeError)):
        pipe.enable_xformers_memory_efficient_attention()
    artifacts["eraser"].detach(pipe)
    require_as(pipe, plain)


def test_hooks_that_came_meanwhile_are_named(fresh: FreshPipe, artifacts: Mapping[str, Any]) -> None:
    pipe, encoder, eraser = fresh(), artifacts["encoder"], artifacts["eraser"]
    encoder.attach(pipe)
    eraser.attach(pipe)
    handles = [part.register_forward_hook(lambda *_: None) for part in (pipe.unet.conv_in, pipe.text_encoder)]
    with pytest.warns(CompatibilityWarning, match="pipe.unet got hooks on conv_in after attaching"):
        eraser.detach(pipe)
    with pytest.warns(CompatibilityWarning, match="pipe.text_encoder got hooks on the module itself"):
        encoder.detach(pipe)
    assert len(handles) == 2
