"""Adapters and projections on pipelines: one line, composable, undone bit for bit."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from overlays import adapter_tensors, drawn, generator, make_adapter, make_projection, skipped
from torch import nn

from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IncompatibleError,
    IntegrityError,
    ManifestError,
    Overlay,
    RobustEncoder,
    StaleAttachmentError,
    UnsavableError,
)
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX
from robust_encoders.overlays.projection import PROJECTION_TENSOR, fused, key_value_layers
from robust_encoders.pipeline.composition import composition_of

PROMPT = "a red circle on a white background"
EVERYWHERE = (UNET_PREFIX, TEXT_PREFIX)


def overlays(pipe: Any) -> dict[str, Overlay]:
    return {
        "adapter": make_adapter(pipe),
        "text": make_adapter(pipe, "a star", seed=1, prefixes=(TEXT_PREFIX,)),
        "both": make_adapter(pipe, "a ball", seed=2, prefixes=EVERYWHERE),
        "projection": make_projection(pipe, seed=3),
    }


@pytest.mark.parametrize("kind", ["adapter", "text", "both", "projection"])
def test_it_changes_pictures_and_comes_off_without_a_trace(tiny_pipe: Any, kind: str) -> None:
    parts = (tiny_pipe.text_encoder, tiny_pipe.unet)
    before, entries = drawn(tiny_pipe, PROMPT), dict(tiny_pipe.config)
    overlay = overlays(tiny_pipe)[kind]
    assert overlay.attach(tiny_pipe) is tiny_pipe
    assert not torch.equal(drawn(tiny_pipe, PROMPT), before)
    overlay.detach(tiny_pipe)
    assert (tiny_pipe.text_encoder, tiny_pipe.unet) == parts
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)
    assert dict(tiny_pipe.config) == entries
    assert not any(part._forward_hooks or part._forward_pre_hooks for root in parts for part in root.modules())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_one_comes_off_in_any_order_and_leaves_the_others_exactly(tiny_pipe: Any, order: tuple[int, ...]) -> None:
    made = overlays(tiny_pipe)
    chosen = [made["adapter"], made["both"], made["projection"]]
    plain = drawn(tiny_pipe, PROMPT)
    for one in chosen:
        one.attach(tiny_pipe)
    left = list(chosen)
    for i in order:
        chosen[i].detach(tiny_pipe)
        left.remove(chosen[i])
        found = drawn(tiny_pipe, PROMPT)
        assert RobustEncoder.status(tiny_pipe).overlays == tuple(
            one.label for one in sorted(left, key=lambda one: (not one.is_adapter, one.identity))
        )
        for one in left:
            one.detach(tiny_pipe)
        assert torch.equal(drawn(tiny_pipe, PROMPT), plain)
        for one in reversed(left):  # the order of attaching does not matter either
            one.attach(tiny_pipe)
        assert torch.equal(drawn(tiny_pipe, PROMPT), found)
    assert torch.equal(drawn(tiny_pipe, PROMPT), plain)


def test_a_pipeline_that_shares_the_components_stays_as_it_was(tiny_pipe: Any) -> None:
    sibling = type(tiny_pipe)(**tiny_pipe.components, requires_safety_checker=False)
    before = drawn(sibling, PROMPT)
    weights = {name: value.clone() for name, value in sibling.unet.state_dict().items()}
    for overlay in overlays(tiny_pipe).values():
        overlay.attach(tiny_pipe)
    for name in ("unet", "text_encoder"):  # the decoder is shared as it was
        getattr(tiny_pipe, name).to(torch.float64)
    assert torch.equal(drawn(sibling, PROMPT), before)
    assert all(torch.equal(value, weights[name]) for name, value in sibling.unet.state_dict().items())


def test_the_copies_share_the_weights(tiny_pipe: Any) -> None:
    places = {name: parameter.data_ptr() for name, parameter in tiny_pipe.unet.named_parameters()}
    make_adapter(tiny_pipe).attach(tiny_pipe)
    assert {name: parameter.data_ptr() for name, parameter in tiny_pipe.unet.named_parameters()} == places


def test_what_is_moved_and_cast_while_it_is_on_is_so_afterwards(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe, prefixes=EVERYWHERE)
    overlay.attach(tiny_pipe)
    tiny_pipe.to(torch.bfloat16)
    assert torch.isfinite(drawn(tiny_pipe, PROMPT)).all()
    overlay.detach(tiny_pipe)
    assert {tiny_pipe.unet.dtype, tiny_pipe.text_encoder.dtype} == {torch.bfloat16}


def test_attaching_twice_changes_nothing_and_other_settings_are_refused(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe).attach(tiny_pipe).unet
    again = make_adapter(tiny_pipe)
    assert again.attach(tiny_pipe).unet is overlay
    with pytest.raises(AlreadyAttachedError, match="set_scale"):
        again.attach(tiny_pipe, scale=0.5)
    with pytest.raises(AlreadyAttachedError, match="transport 'paper'"):
        make_adapter(tiny_pipe, "a star", seed=5).attach(tiny_pipe, transport="paper")
    with pytest.raises(ValueError, match="expected transport"):
        make_adapter(tiny_pipe, "a star", seed=5).attach(tiny_pipe, transport="other")  # type: ignore[arg-type]


def test_replace_takes_the_place_of_all_others(tiny_pipe: Any) -> None:
    made = overlays(tiny_pipe)
    made["adapter"].attach(tiny_pipe)
    made["projection"].attach(tiny_pipe)
    made["text"].attach(tiny_pipe, replace=True)
    assert RobustEncoder.status(tiny_pipe).overlays == (made["text"].label,)
    made["adapter"].attach(tiny_pipe)
    made["text"].attach(tiny_pipe, replace=True)  # there already, but not alone
    assert RobustEncoder.status(tiny_pipe).overlays == (made["text"].label,)
    with pytest.raises(AlreadyAttachedError, match="set_scale"):
        made["text"].attach(tiny_pipe, replace=True, scale=0.5)


def test_a_replacement_that_fails_leaves_the_others(tiny_pipe: Any, make_pipe: Callable[..., Any]) -> None:
    made = overlays(tiny_pipe)
    made["adapter"].attach(tiny_pipe)
    with pytest.raises(IncompatibleError):
        make_projection(make_pipe(seed=8)).attach(tiny_pipe, replace=True)
    assert RobustEncoder.status(tiny_pipe).overlays == (made["adapter"].label,)


def test_equal_tensors_with_other_prompts_are_another_adapter(tiny_pipe: Any) -> None:
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe)
    make_adapter(tiny_pipe, "church").attach(tiny_pipe)
    assert len(RobustEncoder.status(tiny_pipe).overlays) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_odd_scales_and_gates_are_refused(tiny_pipe: Any, value: float) -> None:
    overlay = make_adapter(tiny_pipe)
    with pytest.raises(ValueError, match="finite scale"):
        overlay.attach(tiny_pipe, scale=value)
    overlay.attach(tiny_pipe)
    with pytest.raises(ValueError, match="finite scale"):
        overlay.set_scale(tiny_pipe, value)
    with pytest.raises(ValueError, match=r"gate in \[0, 1\]"):
        overlay.fuse(tiny_pipe, gate=value)


def test_the_releases_arithmetic_wants_one_rank_and_is_not_fused(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe)
    overlay.attach(tiny_pipe, transport="official")
    with pytest.raises(AlreadyAttachedError, match="cannot be fused"):
        overlay.fuse(tiny_pipe)
    tensors = adapter_tensors(tiny_pipe, 1, rank=2)
    other = Overlay(overlay.manifest, tensors, {"prompts": ["a star"], "rank": 2, "alpha": 1.0})
    with pytest.raises(AlreadyAttachedError, match="of one rank"):
        other.attach(tiny_pipe, transport="official")


def test_an_alpha_that_float32_rounds_is_taken(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe)
    tensors = {k: torch.tensor(0.1) if k.endswith(".alpha") else v for k, v in overlay.tensors.items()}
    small = Overlay(overlay.manifest, tensors, {**overlay.config, "alpha": 0.1})
    assert small._cast(torch.float16).dtype == torch.float16


def test_tokens_learned_meanwhile_are_not_lost(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe, prefixes=EVERYWHERE)
    overlay.attach(tiny_pipe)
    tiny_pipe.text_encoder.resize_token_embeddings(tiny_pipe.text_encoder.config.vocab_size + 1)
    with pytest.raises(StaleAttachmentError, match="unload_textual_inversion"):
        overlay.detach(tiny_pipe)


def test_a_scale_of_zero_is_off_and_one_is_on(tiny_pipe: Any) -> None:
    plain = drawn(tiny_pipe, PROMPT)
    overlay = make_adapter(tiny_pipe)
    on = drawn(overlay.attach(tiny_pipe), PROMPT)
    overlay.set_scale(tiny_pipe, 0)
    assert torch.allclose(drawn(tiny_pipe, PROMPT), plain, atol=1e-6)
    overlay.set_scale(tiny_pipe, 1)
    assert torch.equal(drawn(tiny_pipe, PROMPT), on)
    overlay.detach(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match="attach it"):
        overlay.set_scale(tiny_pipe, 0.5)
    with pytest.raises(ManifestError, match="which can be scaled"):
        make_projection(tiny_pipe).set_scale(tiny_pipe, 0.5)
    with pytest.raises(ManifestError, match="which can be scaled"):
        make_projection(tiny_pipe).attach(tiny_pipe, scale=0.5)


def test_a_block_ends_with_what_was_there_before_it(tiny_pipe: Any) -> None:
    made = overlays(tiny_pipe)
    made["projection"].attach(tiny_pipe)
    before = drawn(tiny_pipe, PROMPT)
    with pytest.raises(KeyError), made["both"].attached(tiny_pipe):
        raise KeyError(len(composition_of(tiny_pipe).overlays))
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)
    with made["projection"].attached(tiny_pipe):  # there already
        pass
    assert RobustEncoder.status(tiny_pipe).overlays == (made["projection"].label,)


def test_one_that_is_not_there_is_detached_without_effect(tiny_pipe: Any) -> None:
    made = overlays(tiny_pipe)
    made["adapter"].detach(tiny_pipe)
    made["projection"].attach(tiny_pipe)
    made["adapter"].detach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).overlays == (made["projection"].label,)


def test_a_failure_leaves_everything_as_it_was(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = overlays(tiny_pipe)
    made["projection"].attach(tiny_pipe)
    before, parts = drawn(tiny_pipe, PROMPT), composition_of(tiny_pipe).overlays
    real = type(tiny_pipe).register_modules

    def breaking(pipe: Any, **modules: Any) -> None:
        if "unet" in modules and modules["unet"]._forward_pre_hooks:
            raise OSError("no space")
        real(pipe, **modules)

    monkeypatch.setattr(type(tiny_pipe), "register_modules", breaking)
    with pytest.raises(OSError, match="no space"):
        made["both"].attach(tiny_pipe)
    monkeypatch.undo()
    assert [part.identity for part in composition_of(tiny_pipe).overlays] == [part.identity for part in parts]
    assert torch.equal(drawn(tiny_pipe, PROMPT), before)


def test_a_component_that_was_replaced_or_loaded_into_is_not_lost(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe).attach(tiny_pipe) and make_adapter(tiny_pipe)
    ours, other = tiny_pipe.unet, copy.deepcopy(tiny_pipe.unet)
    tiny_pipe.unet = other
    with pytest.raises(StaleAttachmentError, match="put there since"):
        overlay.detach(tiny_pipe)
    assert tiny_pipe.unet is other
    tiny_pipe.unet = ours
    ours.extra = nn.Linear(2, 2)
    with pytest.raises(StaleAttachmentError, match=r"loaded or unloaded since \(extra.bias"):
        overlay.detach(tiny_pipe)
    del ours.extra
    overlay.detach(tiny_pipe)


def test_attention_processors_that_were_chosen_meanwhile_stay(tiny_pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    overlay = make_adapter(tiny_pipe)
    overlay.attach(tiny_pipe)
    tiny_pipe.unet.set_attn_processor(AttnProcessor())
    overlay.detach(tiny_pipe)
    assert {type(one) for one in tiny_pipe.unet.attn_processors.values()} == {AttnProcessor}


def test_a_pipeline_with_one_is_not_saved_without_it(tiny_pipe: Any, tmp_path: Path) -> None:
    overlay = make_adapter(tiny_pipe)
    overlay.attach(tiny_pipe)
    with pytest.raises(UnsavableError, match=r"detach it first.*or fuse it"):
        tiny_pipe.save_pretrained(tmp_path / "no")
    overlay.detach(tiny_pipe)
    tiny_pipe.save_pretrained(tmp_path / "yes")


def test_it_survives_its_folder(tiny_pipe: Any, tmp_path: Path) -> None:
    for name, overlay in overlays(tiny_pipe).items():
        overlay.save_pretrained(tmp_path / name)
        names = {path.name for path in (tmp_path / name).iterdir()}
        assert names == {"robust_encoder.json", "README.md", f"{overlay.manifest.form}.safetensors"}
        read = RobustEncoder.from_pretrained(tmp_path / name)
        assert isinstance(read, Overlay)
        assert read.content_sha256 == overlay.content_sha256
        assert read.config == overlay.config
        with overlay.attached(tiny_pipe):
            expected = drawn(tiny_pipe, PROMPT)
        with read.attached(tiny_pipe):
            assert torch.equal(drawn(tiny_pipe, PROMPT), expected)


def test_a_damaged_file_is_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    for name, overlay in overlays(tiny_pipe).items():
        overlay.save_pretrained(tmp_path / name)
        path = tmp_path / name / f"{overlay.manifest.form}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(IntegrityError, match="fetch the artifact again"):
            RobustEncoder.from_pretrained(tmp_path / name)


def test_another_form_in_the_same_folder_leaves_none_of_the_first(tiny_pipe: Any, tmp_path: Path) -> None:
    made = overlays(tiny_pipe)
    made["adapter"].save_pretrained(tmp_path / "one")
    made["projection"].save_pretrained(tmp_path / "one")
    assert not (tmp_path / "one" / "adapter.safetensors").exists()
    assert RobustEncoder.from_pretrained(tmp_path / "one").manifest.form == "projection"


def test_what_has_no_text_encoder_or_variant_says_so(
    tiny_pipe: Any, tmp_path: Path, tiny_encoder: RobustEncoder
) -> None:
    overlay = make_projection(tiny_pipe)
    assert not hasattr(overlay, "text_encoder")
    assert not isinstance(overlay, RobustEncoder)
    overlay.save_pretrained(tmp_path / "one")
    with pytest.raises(ManifestError, match="expected no variant"):
        RobustEncoder.from_pretrained(tmp_path / "one", variant="fp16")
    with pytest.raises(ManifestError, match="from_pretrained"):
        Overlay(tiny_encoder.manifest, overlay.tensors, {})
    with pytest.raises(IntegrityError, match="one finite square matrix"):
        Overlay(overlay.manifest, {PROJECTION_TENSOR: torch.zeros(2, 3)}, {})
    with pytest.raises(IntegrityError, match="prompts, rank and alpha"):
        Overlay(make_adapter(tiny_pipe).manifest, make_adapter(tiny_pipe).tensors, {})


def test_it_can_be_loaded_in_half_precision(tiny_pipe: Any, tmp_path: Path) -> None:
    make_adapter(tiny_pipe).save_pretrained(tmp_path / "one")
    half = RobustEncoder.from_pretrained(tmp_path / "one", dtype=torch.float16)
    assert half.dtype == torch.float16
    with half.attached(tiny_pipe):
        assert torch.isfinite(drawn(tiny_pipe, PROMPT)).all()


def test_a_projection_multiplies_what_the_unet_reads(tiny_pipe: Any) -> None:
    overlay = make_projection(tiny_pipe)
    ids = tiny_pipe.tokenizer([PROMPT], padding="max_length", max_length=24, return_tensors="pt").input_ids
    before = tiny_pipe.text_encoder(ids)[0]
    with overlay.attached(tiny_pipe):
        found = tiny_pipe.text_encoder(ids)[0]
    assert torch.allclose(found, before @ overlay.tensors[PROJECTION_TENSOR].T, atol=1e-5)


def test_clip_skip_is_projected_too(tiny_pipe: Any) -> None:
    plain, overlay = skipped(tiny_pipe, PROMPT), make_projection(tiny_pipe)
    with overlay.attached(tiny_pipe):
        assert torch.allclose(skipped(tiny_pipe, PROMPT), plain @ overlay.tensors[PROJECTION_TENSOR].T, atol=1e-5)


def test_a_fused_projection_draws_what_the_live_one_does(tiny_pipe: Any, tmp_path: Path) -> None:
    overlay = make_projection(tiny_pipe)
    text_encoder = tiny_pipe.text_encoder
    live = drawn(overlay.attach(tiny_pipe), PROMPT)
    overlay.fuse(tiny_pipe)
    assert tiny_pipe.text_encoder is text_encoder
    assert torch.allclose(drawn(tiny_pipe, PROMPT), live, atol=1e-4)
    tiny_pipe.unet.save_pretrained(tmp_path / "unet")
    saved = type(tiny_pipe.unet).from_pretrained(tmp_path / "unet")
    overlay.detach(tiny_pipe)
    expected = fused(tiny_pipe.unet, overlay.tensors[PROJECTION_TENSOR])
    assert set(expected) == {f"{name}.weight" for name in key_value_layers(tiny_pipe.unet)}
    assert all(torch.equal(saved.get_parameter(name), value) for name, value in expected.items())


def test_a_fused_adapter_is_a_constant_gate_and_says_what_it_loses(tiny_pipe: Any) -> None:
    plain = drawn(tiny_pipe, PROMPT)
    overlay = make_adapter(tiny_pipe, prefixes=EVERYWHERE)
    overlay.attach(tiny_pipe, transport="paper")
    with pytest.warns(CompatibilityWarning, match="loses its transport"):
        overlay.fuse(tiny_pipe, gate=1.0)
    other = drawn(tiny_pipe, "a purple cross")
    overlay.detach(tiny_pipe)
    assert torch.equal(drawn(tiny_pipe, PROMPT), plain)
    always = make_adapter(tiny_pipe, prompts=("a purple cross",), prefixes=EVERYWHERE)
    with always.attached(tiny_pipe):  # whose gate is one for that very prompt, and for the empty one as well
        live = drawn(tiny_pipe, "a purple cross", negative_prompt="a purple cross", guidance_scale=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        overlay.attach(tiny_pipe, transport="paper")
        overlay.fuse(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, "a purple cross", guidance_scale=1.0), live, atol=1e-4)
    assert not torch.allclose(other, plain, atol=1e-3)


def test_fused_ones_keep_their_order(tiny_pipe: Any) -> None:
    made = overlays(tiny_pipe)
    made["adapter"].attach(tiny_pipe, transport="paper")
    made["projection"].attach(tiny_pipe)
    with pytest.raises(AlreadyAttachedError, match="fuse or detach them first"):
        made["projection"].fuse(tiny_pipe)
    with pytest.warns(CompatibilityWarning, match="loses"):
        made["adapter"].fuse(tiny_pipe)
    live = drawn(tiny_pipe, PROMPT)
    made["projection"].fuse(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, PROMPT), live, atol=1e-4)
    with pytest.raises(IncompatibleError, match="no projection fused into the UNet"):
        make_adapter(tiny_pipe, "a star", seed=9).attach(tiny_pipe, transport="paper")


@pytest.mark.parametrize("seed", range(4))
def test_what_is_fused_is_in_order_whatever_the_hashes(tiny_pipe: Any, seed: int) -> None:
    adapter, matrix = make_adapter(tiny_pipe, seed=seed), make_projection(tiny_pipe, seed=seed)
    matrix.attach(tiny_pipe)
    adapter.attach(tiny_pipe, transport="paper")
    with pytest.warns(CompatibilityWarning, match="loses"):
        adapter.fuse(tiny_pipe)
    live = drawn(tiny_pipe, PROMPT)
    matrix.fuse(tiny_pipe)
    assert torch.allclose(drawn(tiny_pipe, PROMPT), live, atol=1e-4)


def test_with_a_robust_encoder_gates_come_from_the_base(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    overlay = make_adapter(tiny_pipe)
    with overlay.attached(tiny_pipe):
        drawn(tiny_pipe, PROMPT)
        carrier = composition_of(tiny_pipe).carrier
        assert carrier is not None
        assert carrier.reference is None
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    robust = tiny_pipe.text_encoder
    plain = drawn(tiny_pipe, PROMPT)
    with overlay.attached(tiny_pipe):
        carrier = composition_of(tiny_pipe).carrier
        assert carrier is not None
        assert carrier.reference is original
        assert not torch.equal(drawn(tiny_pipe, PROMPT), plain)
    assert tiny_pipe.text_encoder is robust
    overlay.attach(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)  # original_of the adapter
    carrier = composition_of(tiny_pipe).carrier
    assert carrier is not None
    assert carrier.reference is None
    one = drawn(tiny_pipe, PROMPT)
    overlay.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    with overlay.attached(tiny_pipe), tiny_encoder.attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), drawn(tiny_pipe, PROMPT))
        assert RobustEncoder.status(tiny_pipe).attached
    assert tiny_pipe.text_encoder is original
    with overlay.attached(tiny_pipe):
        assert torch.equal(drawn(tiny_pipe, PROMPT), one)


def test_a_projection_is_refused_behind_another_encoder(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    overlay = make_projection(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    with pytest.raises(IncompatibleError, match="that prompts pass through"):
        overlay.attach(tiny_pipe)
    solved_for_it = make_projection(tiny_pipe, "a star")
    solved_for_it.attach(tiny_pipe)
    with pytest.raises(IncompatibleError, match="text encoder of 'a star' erased by uce"):
        tiny_encoder.detach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).intact
    solved_for_it.detach(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    overlay.attach(tiny_pipe)
    with pytest.raises(IncompatibleError, match="'red circle' erased by uce"):
        tiny_encoder.attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).overlays == (overlay.label,)
    assert not RobustEncoder.status(tiny_pipe).attached


def test_a_text_adapter_is_refused_behind_another_encoder_and_a_unet_adapter_is_not(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    text, unet = make_adapter(tiny_pipe, prefixes=(TEXT_PREFIX,)), make_adapter(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    assert unet.check(tiny_pipe).ok
    assert [check.name for check in text.check(tiny_pipe).errors] == ["text encoder"]


def test_every_reason_is_named_at_once(tiny_pipe: Any, make_pipe: Callable[..., Any]) -> None:
    other_pipe = make_pipe(width=32, layers=3, seed=4)
    overlay = make_adapter(other_pipe, prefixes=EVERYWHERE)
    report = overlay.check(tiny_pipe)
    assert not report.ok
    assert {"text encoder", "layers of the unet", "layers of the text_encoder"} <= {one.name for one in report.errors}
    assert not make_projection(other_pipe).check(tiny_pipe)["width"].ok
    assert "components" in {one.name for one in overlay.check(object()).errors}


def test_a_compiled_unet_is_refused(tiny_pipe: Any) -> None:
    tiny_pipe.unet = torch.compile(tiny_pipe.unet)
    with pytest.raises(IncompatibleError, match="attach first, then compile"):
        make_adapter(tiny_pipe).attach(tiny_pipe)


def test_without_tensors_changed_in_place(tiny_pipe: Any) -> None:
    overlay = make_projection(tiny_pipe)
    overlay.tensors[PROJECTION_TENSOR].mul_(2)
    with pytest.raises(IntegrityError, match="changed in place"):
        overlay.attach(tiny_pipe)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """transformers 4.57 makes masks of the default dtype, which must hold the smallest number of the encoder's."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_latents_of_any_batch(tiny_pipe: Any) -> None:
    """Eight prompts of which some open the gate and some hardly do, in one call and one by one.

    In double precision: in single precision batches of different sizes differ by more on some processors.
    """
    tiny_pipe.to(torch.float64)
    made = overlays(tiny_pipe)
    for name in ("adapter", "both", "projection"):
        made[name].attach(tiny_pipe)
    prompts = ["a red circle", "a box", PROMPT, "church", "a star", "a ball", "purple", "a red ball"]
    negative = ["", "a red circle", "church", "", "a star", "", "nudity", "a circle"]
    together = drawn(tiny_pipe, prompts, negative_prompt=negative, guidance_scale=5.0)
    for i, (prompt, other) in enumerate(zip(prompts, negative, strict=True)):
        one = tiny_pipe(
            prompt, negative_prompt=other, guidance_scale=5.0, num_inference_steps=2, output_type="pt",
            generator=generator(i),
        ).images  # fmt: skip
        assert torch.allclose(together[i], one[0], atol=1e-5)
